//! Objects of runs, found by their run: what a watch brings, without a search.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kube::ResourceExt;
use kube::runtime::watcher::Event;

use crate::directory::RunKey;
use crate::names;

/// Objects with the label of a run, by run and name.
#[derive(Debug)]
pub(crate) struct Index<K> {
    inner: Arc<Mutex<Inner<K>>>,
}

#[derive(Debug)]
struct Inner<K> {
    objects: HashMap<RunKey, BTreeMap<String, Arc<K>>>,
    /// What a new list has named so far.
    listed: HashSet<(RunKey, String)>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { objects: HashMap::new(), listed: HashSet::new() })) }
    }
}

impl<K: kube::Resource + ResourceExt> Index<K> {
    /// Takes what a watch brings; gives the runs of which something changed.
    pub(crate) fn take(&self, event: Event<K>) -> Vec<RunKey> {
        let mut inner = self.lock();
        match event {
            Event::Apply(object) => inner.put(object).into_iter().collect(),
            Event::Delete(object) => {
                let Some(key) = run_of(&object) else { return Vec::new() };
                inner.remove(&key, &object.name_any());
                vec![key]
            }
            Event::Init => {
                inner.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let name = object.name_any();
                let key = inner.put(object);
                inner.listed.extend(key.clone().map(|key| (key, name)));
                key.into_iter().collect()
            }
            Event::InitDone => inner.drop_unlisted(),
        }
    }

    /// All objects of a run.
    #[must_use]
    pub(crate) fn of(&self, run: &RunKey) -> Vec<Arc<K>> {
        self.lock().objects.get(run).map(|objects| objects.values().cloned().collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: ResourceExt> Inner<K> {
    fn put(&mut self, object: K) -> Option<RunKey> {
        let key = run_of(&object)?;
        self.objects.entry(key.clone()).or_default().insert(object.name_any(), Arc::new(object));
        Some(key)
    }

    fn remove(&mut self, run: &RunKey, name: &str) {
        if let Some(objects) = self.objects.get_mut(run) {
            objects.remove(name);
            if objects.is_empty() {
                self.objects.remove(run);
            }
        }
    }

    /// What a new list did not name is gone.
    fn drop_unlisted(&mut self) -> Vec<RunKey> {
        let listed = std::mem::take(&mut self.listed);
        let all = self.objects.iter().flat_map(|(run, objects)| objects.keys().map(move |name| (run.clone(), name.clone())));
        let gone: Vec<_> = all.filter(|object| !listed.contains(object)).collect();
        for (run, name) in &gone {
            self.remove(run, name);
        }
        gone.into_iter().map(|(run, _)| run).collect()
    }
}

/// The run that an object belongs to.
fn run_of(object: &impl ResourceExt) -> Option<RunKey> {
    let name = object.labels().get(names::RUN)?.clone();
    Some(RunKey { namespace: object.namespace()?, name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::WorkerPod;

    fn pod(run: &str, name: &str) -> WorkerPod {
        let mut pod = WorkerPod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.metadata.namespace = Some("research".to_owned());
        pod.labels_mut().insert(names::RUN.to_owned(), run.to_owned());
        pod
    }

    fn key(name: &str) -> RunKey {
        RunKey { namespace: "research".into(), name: name.into() }
    }

    #[test]
    fn objects_are_found_by_their_run_until_they_are_deleted() {
        let index = Index::default();
        assert_eq!(index.take(Event::Apply(pod("a", "a-0"))), [key("a")]);
        index.take(Event::Apply(pod("a", "a-1")));
        index.take(Event::Apply(pod("b", "b-0")));
        assert_eq!(index.of(&key("a")).len(), 2);
        assert_eq!(index.take(Event::Delete(pod("a", "a-0"))), [key("a")]);
        assert_eq!(index.of(&key("a")).len(), 1);
        assert!(index.of(&key("c")).is_empty());
    }

    #[test]
    fn a_new_list_drops_what_it_does_not_name() {
        let index = Index::default();
        index.take(Event::Apply(pod("a", "a-0")));
        index.take(Event::Apply(pod("b", "b-0")));
        index.take(Event::Init);
        index.take(Event::InitApply(pod("a", "a-0")));
        assert_eq!(index.of(&key("b")).len(), 1, "the list is not over");
        assert_eq!(index.take(Event::InitDone), [key("b")]);
        assert!(index.of(&key("b")).is_empty());
        assert_eq!(index.of(&key("a")).len(), 1);
    }

    #[test]
    fn what_belongs_to_no_run_is_not_kept() {
        let index = Index::default();
        assert!(index.take(Event::Apply(WorkerPod::default())).is_empty());
    }
}
