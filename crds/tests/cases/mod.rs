//! The table of what each kind's rules accept and refuse (`cases.json`): JSON merge patches of one good object per kind.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;
use serde_json::{Value, json};

/// The cases of each kind, by its name.
pub(crate) static CASES: LazyLock<BTreeMap<String, Cases>> =
    LazyLock::new(|| serde_json::from_str(include_str!("../cases.json")).expect("the table of cases"));

/// The cases of one kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Cases {
    /// An object that every rule accepts.
    pub(crate) good: Value,
    /// Changes of it at the edge of what the rules accept.
    pub(crate) accepted: Vec<Value>,
    /// Changes of it that one rule alone refuses.
    pub(crate) refused: Vec<Refused>,
    /// Changes of it that a type, range or pattern refuses.
    pub(crate) refused_by_schema: Vec<RefusedBySchema>,
    /// Changes of an object that is there.
    pub(crate) changes: Changes,
}

/// A change that one rule alone refuses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Refused {
    /// Message of the rule.
    pub(crate) rule: String,
    /// The change of the good object.
    pub(crate) change: Value,
    /// What an API server says instead, where it refuses the object before it looks at rules.
    #[allow(dead_code, reason = "only one of two suites asks a server")]
    pub(crate) server: Option<String>,
}

/// A change that a type, range or pattern refuses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RefusedBySchema {
    /// Path of the field that gets the blame.
    pub(crate) field: String,
    /// The change of the good object.
    pub(crate) change: Value,
}

/// Changes of an object that is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Changes {
    /// What the rules accept.
    pub(crate) accepted: Vec<Change>,
    /// What one rule alone refuses.
    pub(crate) refused: Vec<Change>,
}

/// A change of an object that is there.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// Message of the rule that refuses it; empty where none does.
    #[serde(default)]
    pub(crate) rule: String,
    /// The object that is there, as a change of the good one.
    pub(crate) from: Value,
    /// The change of it.
    pub(crate) to: Value,
}

impl Cases {
    /// The good object after a change.
    pub(crate) fn changed(&self, change: &Value) -> Value {
        patched(&self.good, change)
    }

    /// The object before a change, and after it.
    pub(crate) fn before_and_after(&self, change: &Change) -> (Value, Value) {
        let before = self.changed(&change.from);
        let after = patched(&before, &change.to);
        (before, after)
    }

    /// Messages of all rules that refuse something.
    pub(crate) fn rules(&self) -> impl Iterator<Item = &str> {
        let of_objects = self.refused.iter().map(|case| case.rule.as_str());
        of_objects.chain(self.changes.refused.iter().map(|case| case.rule.as_str()))
    }
}

/// `object` with a JSON merge patch (RFC 7386) applied.
pub(crate) fn patched(object: &Value, change: &Value) -> Value {
    let mut object = object.clone();
    merge(&mut object, change);
    object
}

fn merge(target: &mut Value, change: &Value) {
    let Value::Object(changes) = change else { return target.clone_from(change) };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        match (change, target.as_object_mut()) {
            (Value::Null, Some(members)) => drop(members.remove(name)),
            (change, Some(members)) => merge(members.entry(name).or_insert(Value::Null), change),
            (_, None) => unreachable!("made an object above"),
        }
    }
}
