//! One worker of four is enough: the others are lost for good, new ones join, and the run is no worse for it.

use std::{collections::BTreeSet, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use atoll_checkpoint::{Access, Address, Folder, Store, folder::shard_name};
use atoll_test_store::{BUCKET, Seen, Server};
use tokio::runtime::Runtime;

use super::{folder, runtime};
use crate::{
    events,
    figures::{Figure, Figures},
    paths,
    product::{self, Run},
    report::Report,
    tally::Tally,
};

const LIMIT: Duration = Duration::from_mins(5);
const SCRIPT: &str = "examples/chaos/one-survivor.yaml";
/// Of `examples/kjv.yaml`.
const INNER_STEPS: u64 = 20;
/// Rounds, in full and reduced.
const ROUNDS: (u64, u64) = (50, 20);
const WORKERS: usize = 4;
/// Rounds between checkpoints: none is being written when the workers are lost, after round 10. Whoever writes on where one was
/// lost reads once what that one had written.
const EVERY: u64 = 4;
/// Held-out loss, of that of the run that nobody disturbed.
const MOST_LOSS: f64 = 1.02;

/// What was seen of both runs.
#[derive(Debug, Clone)]
struct Observed {
    undisturbed: Report,
    disturbed: Report,
    /// Rounds that there are to commit.
    rounds: u64,
    /// Rounds as they were committed.
    committed: Vec<u64>,
    /// Parts of the state that were read from the store.
    read: usize,
    /// Checkpoints that were published.
    published: usize,
}

/// Runs the example twice: undisturbed, and with three of its workers lost.
pub(crate) fn perform(quick: bool) -> Result<Tally> {
    product::build(&["atoll"])?;
    let rounds = if quick { ROUNDS.1 } else { ROUNDS.0 };
    let runtime = runtime()?;
    let folder = folder("survivor-")?;
    let observed = observe(rounds, &runtime, folder.path())?;
    Ok(figures(&observed).conclude("survivor"))
}

fn observe(rounds: u64, runtime: &Runtime, folder: &Path) -> Result<Observed> {
    let file = paths::root().join("examples/kjv.yaml");
    let steps = format!("stop.steps={}", rounds * INNER_STEPS);
    let undisturbed = Run::new("undisturbed", &file, folder)?.set(&[&steps]).perform(LIMIT)?.report;
    let store = folder.join("store");
    let server = runtime.block_on(Server::start(&store)).context("cannot start the store")?;
    let keeps = format!(
        "checkpoint={{uri: \"s3://{BUCKET}/kjv\", endpoint: \"{}\", region: us-east-1, everyRounds: {EVERY}}}",
        server.endpoint()
    );
    let run = Run::new("disturbed", &file, folder)?.set(&[&steps, &keeps]).with_environment(server.environment());
    let run = run.befallen_by(&paths::root().join(SCRIPT));
    let disturbed = run.perform(LIMIT)?.report;
    let events = events::read(&run.output)?;
    let folder = Folder::new(Store::open(&Address::Folder(store.join(BUCKET).join("kjv")), &Access::default())?);
    Ok(Observed {
        undisturbed,
        disturbed,
        rounds,
        committed: events.iter().filter(|event| event.is("Committed")).filter_map(|event| event.round).collect(),
        read: reads_of_state(&server.seen(), &runtime.block_on(never_changing(&folder))?),
        published: events.iter().filter(|event| event.is("Checkpointed")).count(),
    })
}

/// Shards of files that never change: whoever names one without having written it reads it once.
async fn never_changing(folder: &Folder) -> Result<BTreeSet<String>> {
    let newest = folder.newest().await?.context("no checkpoint was published")?;
    let manifest = folder.manifest(newest).await?;
    Ok(manifest.files.iter().flat_map(|file| &file.pieces).map(|piece| shard_name(&piece.shard)).collect())
}

fn reads_of_state(seen: &[Seen], never_changing: &BTreeSet<String>) -> usize {
    let of_state = |seen: &&Seen| {
        let read = seen.method == "GET" && seen.key.ends_with(".safetensors");
        read && !never_changing.iter().any(|name| seen.key.ends_with(name))
    };
    seen.iter().filter(of_state).count()
}

fn figures(observed: &Observed) -> Figures {
    let Observed { undisturbed, disturbed, rounds, committed, read, published } = observed;
    let all = (1..=*rounds).eq(committed.iter().copied());
    let alike = disturbed.shared_hash().is_some() && disturbed.hashes().len() == WORKERS;
    Figures(vec![
        Figure::at_most(
            "held-out loss, of the undisturbed run's",
            disturbed.held_out_loss / undisturbed.held_out_loss,
            MOST_LOSS,
        ),
        Figure::that("rounds, each committed once", committed.len().to_string(), format!("1 to {rounds}"), all),
        Figure::that("parts of the state read from the store", read.to_string(), "0", *read == 0),
        Figure::at_least("checkpoints published", *published as f64, 2.0),
        Figure::that("workers with one hash", disturbed.hashes().len().to_string(), format!("= {WORKERS}"), alike),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    fn good() -> Observed {
        let (undisturbed, disturbed) = (report(&["a"; 4]), report(&["b"; 4]));
        Observed { undisturbed, disturbed, rounds: 3, committed: vec![1, 2, 3], read: 0, published: 2 }
    }

    fn short_of(change: impl FnOnce(&mut Observed)) -> Vec<String> {
        let mut observed = good();
        change(&mut observed);
        figures(&observed).short_of().into_iter().map(str::to_owned).collect()
    }

    #[test]
    fn each_figure_falls_short_by_itself() {
        assert_eq!(short_of(|_| {}), [""; 0]);
        assert_eq!(short_of(|seen| seen.disturbed.held_out_loss *= 1.021), ["held-out loss, of the undisturbed run's"]);
        for committed in [vec![1, 2], vec![1, 2, 2, 3], vec![1, 3, 2]] {
            assert_eq!(short_of(|seen| seen.committed = committed), ["rounds, each committed once"]);
        }
        assert_eq!(short_of(|seen| seen.read = 1), ["parts of the state read from the store"]);
        assert_eq!(short_of(|seen| seen.published = 0), ["checkpoints published"]);
        assert_eq!(short_of(|seen| seen.disturbed = report(&["a", "a", "a", "b"])), ["workers with one hash"]);
    }

    #[test]
    fn what_is_read_of_the_state_is_counted_and_no_file() {
        let seen = |method: &str, key: &str| Seen { method: method.parse().unwrap(), key: key.to_owned(), bytes: 0, port: 1 };
        let never_changing = BTreeSet::from(["shards/aa.safetensors".to_owned()]);
        let all = [
            seen("GET", "kjv/shards/aa.safetensors"),
            seen("PUT", "kjv/shards/bb.safetensors"),
            seen("GET", "kjv/checkpoints/1.json"),
            seen("GET", "kjv/shards/bb.safetensors"),
        ];
        assert_eq!(reads_of_state(&all, &never_changing), 1);
    }
}
