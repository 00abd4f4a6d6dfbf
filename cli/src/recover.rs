//! `atoll recover`: a human's word that the voters of a run that do not answer are lost for ever.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use atoll_collective::arbiter::{is_newer, majority, voters};
use atoll_proto::v1::recovery_client::RecoveryClient;
use atoll_proto::v1::{ArbiterKind, EpochRecord, ForceRequest, Member, StandRequest, Standing};
use clap::Args;
use tonic::transport::{Channel, Endpoint};

use crate::{Ending, printed};

/// How long the run may take to go on.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a sidecar may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause between two looks at the run.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `atoll recover`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Sockets of all sidecars of the run that are left. Voters that are not among them are given up: where one lives after
    /// all, the run goes on twice
    #[arg(value_name = "SOCKET", required = true)]
    sockets: Vec<PathBuf>,
}

pub(crate) fn recover(arguments: &Arguments) -> Ending {
    if let Err(problem) = checked(&arguments.sockets) {
        return Ending::BadInput(problem);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.context("no runtime").and_then(|runtime| runtime.block_on(force(&arguments.sockets))) {
        Ok(line) => printed(&line),
        Err(error) => Ending::failed(&error),
    }
}

/// Somebody listens at each socket.
fn checked(sockets: &[PathBuf]) -> Result<(), String> {
    sockets.iter().try_for_each(|socket| match UnixStream::connect(socket) {
        Ok(_listens) => Ok(()),
        Err(error) => Err(format!("{}: no sidecar listens there: {error}; name those that are left", socket.display())),
    })
}

async fn force(sockets: &[PathBuf]) -> Result<String> {
    let mut standings = Vec::new();
    for socket in sockets {
        standings.push(standing(socket).await.with_context(|| socket.display().to_string())?);
    }
    let Plan { asked, record, survivors } = plan(&standings)?;
    let socket = &sockets[asked];
    let request = ForceRequest { observed_term: record.term, survivors };
    client(socket).await?.force(request).await.map_err(|status| anyhow!("{}: {}", socket.display(), status.message()))?;
    let went_on = async {
        loop {
            let newest = standing(socket).await?.record.unwrap_or_default();
            if newest.epoch > record.epoch {
                return Ok::<_, anyhow::Error>(newest);
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let newest = tokio::time::timeout(PATIENCE, went_on).await.map_err(|_| {
        anyhow!("term {} was asked for, and after {} s there is no new epoch", record.term + 1, PATIENCE.as_secs())
    })??;
    Ok(format!("term {}, epoch {}: {} can go on\n", newest.term, newest.epoch, names(newest.members.iter())))
}

async fn client(socket: &Path) -> Result<RecoveryClient<Channel>> {
    let path = std::path::absolute(socket)?;
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display()))?;
    let connected = tokio::time::timeout(ANSWER, endpoint.timeout(ANSWER).connect()).await;
    Ok(RecoveryClient::new(connected.context("does not answer")?.context("no sidecar listens there")?))
}

async fn standing(socket: &Path) -> Result<Standing> {
    let answer = client(socket).await?.stand(StandRequest {}).await;
    answer.map(tonic::Response::into_inner).map_err(|status| anyhow!("{}", status.message()))
}

/// Who is told what.
#[derive(Debug, PartialEq)]
struct Plan {
    /// Index of the sidecar that asks for the term.
    asked: usize,
    /// The newest record, which the term follows.
    record: EpochRecord,
    survivors: Vec<Member>,
}

/// What to force where these are all that are left of a run.
fn plan(standings: &[Standing]) -> Result<Plan> {
    let mut record = EpochRecord::default();
    for known in standings.iter().filter_map(|standing| standing.record.as_ref()) {
        if is_newer(known, &record) {
            record = known.clone();
        }
    }
    if record.arbiter() != ArbiterKind::Peers {
        bail!("the run's arbiter is its supervisor alone, which needs no majority");
    }
    let process = |member: &Member| (member.slot, member.incarnation);
    let left: Vec<_> = standings.iter().flat_map(|standing| standing.member.iter().chain(&standing.hub)).map(process).collect();
    let electorate = voters(&record);
    let (survivors, lost): (Vec<Member>, Vec<Member>) =
        electorate.iter().map(|voter| (*voter).clone()).partition(|voter| left.contains(&process(voter)));
    if survivors.len() >= majority(electorate.len()) {
        bail!("{} of {} voters are left, which is a majority: there is nothing to force", survivors.len(), electorate.len());
    }
    let holds = |standing: &Standing| {
        let votes =
            standing.member.as_ref().is_some_and(|member| survivors.iter().any(|voter| process(voter) == process(member)));
        votes && standing.without_majority && standing.record.as_ref() == Some(&record)
    };
    let Some(asked) = standings.iter().position(holds) else {
        bail!("no sidecar here has a vote and misses the majority; lost are {}", names(lost.iter()));
    };
    Ok(Plan { asked, record, survivors })
}

fn names<'a>(members: impl Iterator<Item = &'a Member>) -> String {
    members.map(|member| member.worker.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use atoll_collective::arbiter::HUB;

    use super::*;

    fn member(slot: u32, incarnation: u64) -> Member {
        Member { slot, incarnation, worker: format!("w{slot}"), ..Member::default() }
    }

    /// Epoch 1 of so many workers, in term 1 or later.
    fn record(workers: u32, term: u64) -> EpochRecord {
        let members = (0..workers).map(|slot| member(slot, 1)).collect();
        let hub = Some(member(HUB, 1));
        EpochRecord { term, epoch: 1, members, arbiter: ArbiterKind::Peers.into(), hub, ..EpochRecord::default() }
    }

    fn standing(member: Member, record: &EpochRecord) -> Standing {
        Standing { member: Some(member), record: Some(record.clone()), hub: None, without_majority: true }
    }

    fn refused(standings: &[Standing]) -> String {
        plan(standings).unwrap_err().to_string()
    }

    #[test]
    fn the_voter_that_is_left_goes_on_and_one_that_started_again_has_no_vote() {
        let record = record(3, 1);
        let standings = [standing(member(0, 2), &record), standing(member(2, 1), &record)];
        assert_eq!(plan(&standings).unwrap(), Plan { asked: 1, record, survivors: vec![member(2, 1)] });
    }

    #[test]
    fn the_newest_record_counts_and_only_who_knows_it_is_asked() {
        let (old, new) = (record(5, 1), record(5, 2));
        let standings = [standing(member(0, 1), &old), standing(member(1, 1), &new)];
        let found = plan(&standings).unwrap();
        assert_eq!((found.asked, found.record, found.survivors.len()), (1, new, 2));
    }

    #[test]
    fn the_hub_survives_where_it_answered_and_has_a_vote() {
        let record = record(4, 1);
        let left = Standing { hub: Some(member(HUB, 1)), ..standing(member(3, 1), &record) };
        assert_eq!(plan(std::slice::from_ref(&left)).unwrap().survivors, [member(3, 1), member(HUB, 1)]);
        let again = Standing { hub: Some(member(HUB, 2)), ..left };
        assert_eq!(plan(&[again]).unwrap().survivors, [member(3, 1)]);
    }

    #[test]
    fn a_run_that_can_go_on_is_not_forced() {
        let peers = record(3, 1);
        let two = [standing(member(0, 1), &peers), standing(member(1, 1), &peers)];
        assert!(refused(&two).contains("2 of 3 voters are left"));
        let single = EpochRecord { arbiter: ArbiterKind::Single.into(), ..record(3, 1) };
        assert!(refused(&[standing(member(0, 1), &single)]).contains("needs no majority"));
        let patient = Standing { without_majority: false, ..standing(member(0, 1), &peers) };
        assert!(refused(&[patient]).contains("lost are w1, w2"));
        assert!(refused(&[standing(member(0, 2), &peers)]).contains("has a vote"));
    }
}
