//! What workers tell of their run, and from what they are told to begin.
//!
//! From what an attempt begins is found by one worker, which is told to look, and is stored: all others, and those who come
//! later, begin from the same. What is told goes to the controllers; sizes are bounded before anything is kept.

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_collective::identity::PeerName;
use atoll_proto::v1::supervision_server::Supervision;
use atoll_proto::v1::{
    BeginReply, BeginRequest, Beginning, KeptCheckpoint, Member, Occurrence, Progress, ReportReply, ReportRequest,
};
use tonic::{Request, Response, Status};

use super::runs::{Run, run_of};
use crate::directory::Heard;

/// How long one worker looks before another is told to.
const LOOKS: Duration = Duration::from_mins(1);
/// How long nobody looks after one could not find anything.
const PAUSE: Duration = Duration::from_secs(5);
/// Bytes of an address of checkpoints.
const MOST_URI: usize = 2048;
/// Bytes of what people read.
const MOST_DETAIL: usize = 1024;
/// Bytes of a name.
const MOST_NAME: usize = 256;
/// Workers that take part in a round.
const MOST_SLOTS: usize = 4096;
/// Occurrences of one report.
const MOST_OCCURRENCES: usize = 64;
/// Checkpoints of one report that were published, and of several that wait for their controller.
const MOST_KEPT: (usize, usize) = (16, 256);
/// The same of those that were removed.
const MOST_REMOVED: (usize, usize) = (64, 4096);

/// Who looks for the beginning of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Looking {
    /// Slot and incarnation; nobody, where the last one found nothing.
    by: Option<(u32, u64)>,
    until: Instant,
}

/// Whether `asker` is to look, where `looking` does: it does already, or nobody does any more.
fn is_to_look(looking: Option<&Looking>, asker: (u32, u64), now: Instant) -> bool {
    looking.is_none_or(|looking| looking.by == Some(asker) || looking.until <= now)
}

/// The supervision of whichever run asks.
pub(super) struct Supervising;

#[tonic::async_trait]
impl Supervision for Supervising {
    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginReply>, Status> {
        let run = asking(&request, |begin| &begin.run, |begin| begin.member.as_ref())?;
        begin(&run, request.into_inner()).await.map(Response::new)
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        let run = asking(&request, |report| &report.run, |report| report.member.as_ref())?;
        report(&run, request.into_inner()).map(Response::new)
    }
}

/// The run that asks, where it is the one that the message names, and the member the one of the certificate.
fn asking<T>(request: &Request<T>, named: fn(&T) -> &str, member: fn(&T) -> Option<&Member>) -> Result<Arc<Run>, Status> {
    let (run, message) = (run_of(request)?, request.get_ref());
    if named(message) != run.wire {
        return Err(Status::not_found(format!("this is run {}", run.wire)));
    }
    let name = request.extensions().get::<Option<PeerName>>().and_then(Option::as_ref);
    let member = member(message).ok_or_else(|| Status::invalid_argument("it does not say who asks"))?;
    run.admit(name, member)?;
    Ok(run)
}

async fn begin(run: &Run, request: BeginRequest) -> Result<BeginReply, Status> {
    let served = run.served().ok_or_else(|| Status::not_found("the run is served no more"))?;
    let known = run.grants.known().await?;
    let held = known.record.epoch >= 1;
    let decided = |beginning| BeginReply { beginning: Some(beginning), look: false, held };
    if let Some(beginning) = known.beginning {
        return Ok(decided(beginning));
    }
    if served.settings.checkpoints.is_none() {
        return Ok(decided(Beginning::default()));
    }
    if let Some(found) = request.found {
        return run.grants.begin(bounded(found)?).await.map(decided);
    }
    let asker = request.member.map(|member| (member.slot, member.incarnation)).unwrap_or_default();
    let now = Instant::now();
    if !request.failure.is_empty() {
        run.look(|looking| *looking = Some(Looking { by: None, until: now + PAUSE }));
        let failure = cut(&request.failure, MOST_DETAIL);
        run.setup.directory.hear(&run.attempt.key, run.attempt.attempt, |heard| {
            heard.beginning_failure.replace(failure.clone()) != Some(failure)
        });
        return Ok(BeginReply { beginning: None, look: false, held });
    }
    let look = run.look(|looking| {
        let look = is_to_look(looking.as_ref(), asker, now);
        if look {
            *looking = Some(Looking { by: Some(asker), until: now + LOOKS });
        }
        look
    });
    Ok(BeginReply { beginning: None, look, held })
}

/// A beginning whose parts are no longer than they may be.
fn bounded(found: Beginning) -> Result<Beginning, Status> {
    let fits = found.uri.len() <= MOST_URI && found.place.len() <= MOST_NAME && found.digest.len() <= MOST_NAME;
    if fits { Ok(found) } else { Err(Status::invalid_argument("a part of the beginning is too long")) }
}

fn report(run: &Run, request: ReportRequest) -> Result<ReportReply, Status> {
    let lengths = [
        ("occurrences", request.occurrences.len(), MOST_OCCURRENCES),
        ("checkpoints", request.kept.len(), MOST_KEPT.0),
        ("removed checkpoints", request.removed.len(), MOST_REMOVED.0),
    ];
    if let Some((what, count, most)) = lengths.into_iter().find(|(_, count, most)| count > most) {
        return Err(Status::invalid_argument(format!("{count} {what} in one report: {most} are the most")));
    }
    let served = run.served().ok_or_else(|| Status::not_found("the run is served no more"))?;
    let coordinator = run.grants.record().coordinator;
    let coordinates = coordinator
        .zip(request.member.clone())
        .is_some_and(|(coordinator, member)| (coordinator.slot, coordinator.incarnation) == (member.slot, member.incarnation));
    let progress = request.progress.clone().filter(|_| coordinates).map(readable).transpose()?;
    run.setup.directory.hear(&run.attempt.key, run.attempt.attempt, |heard| take(heard, progress, request, Instant::now()));
    Ok(ReportReply { keep_round: served.keep_round })
}

fn readable(mut progress: Progress) -> Result<Progress, Status> {
    if !progress.loss.is_finite() || progress.slots.len() > MOST_SLOTS {
        return Err(Status::invalid_argument("the progress has a loss that is no number, or too many slots"));
    }
    progress.holding = cut(&progress.holding, MOST_NAME);
    Ok(progress)
}

/// Adds what was told to what was heard; whether there is anything new but the time.
fn take(heard: &mut Heard, progress: Option<Progress>, told: ReportRequest, now: Instant) -> bool {
    let mut new = !(told.occurrences.is_empty() && told.kept.is_empty() && told.removed.is_empty());
    if let Some(progress) = progress
        && heard.progress.as_ref().is_none_or(|(before, _)| *before != progress)
    {
        heard.progress = Some((progress, now));
        new = true;
    }
    heard.occurrences.extend(told.occurrences.iter().map(shortened));
    heard.kept.extend(told.kept.into_iter().filter(is_whole));
    let surplus = heard.kept.len().saturating_sub(MOST_KEPT.1);
    heard.kept.drain(..surplus);
    let removed = told.removed.into_iter().filter(|place| place.len() <= MOST_NAME);
    heard.removed.extend(removed.take(MOST_REMOVED.1.saturating_sub(heard.removed.len())));
    new
}

fn shortened(occurrence: &Occurrence) -> Occurrence {
    Occurrence {
        event: cut(&occurrence.event, MOST_NAME),
        worker: cut(&occurrence.worker, MOST_NAME),
        round: occurrence.round,
        detail: cut(&occurrence.detail, MOST_DETAIL),
    }
}

/// Whether a checkpoint can be recorded: its names are short, its figures are numbers.
fn is_whole(kept: &KeptCheckpoint) -> bool {
    let short = !kept.place.is_empty() && kept.place.len() <= MOST_NAME && kept.digest.len() <= MOST_NAME;
    short && kept.loss.is_finite() && kept.seconds.is_finite()
}

/// The first characters of `text`, no more than so many bytes.
fn cut(text: &str, most: usize) -> String {
    text[..text.floor_char_boundary(most)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(round: u64) -> Progress {
        Progress { round, loss: 2.5, ..Progress::default() }
    }

    fn kept(place: &str) -> KeptCheckpoint {
        KeptCheckpoint { place: place.into(), ..KeptCheckpoint::default() }
    }

    #[test]
    fn one_looks_until_its_time_is_over() {
        let now = Instant::now();
        let looking = Looking { by: Some((1, 7)), until: now + LOOKS };
        assert!(is_to_look(None, (2, 7), now));
        assert!(is_to_look(Some(&looking), (1, 7), now), "it asks again");
        assert!(!is_to_look(Some(&looking), (1, 8), now), "its process has started again, and the old one may still look");
        assert!(!is_to_look(Some(&looking), (2, 7), now + PAUSE));
        assert!(is_to_look(Some(&looking), (2, 7), now + LOOKS));
        let failed = Looking { by: None, until: now + PAUSE };
        assert!(!is_to_look(Some(&failed), (1, 7), now));
    }

    #[test]
    fn the_controller_is_called_where_something_but_the_time_is_new() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert!(take(&mut heard, Some(progress(1)), ReportRequest::default(), now));
        assert!(!take(&mut heard, Some(progress(1)), ReportRequest::default(), now + LOOKS));
        assert_eq!(heard.progress, Some((progress(1), now)), "since when it stands still");
        assert!(!take(&mut heard, None, ReportRequest::default(), now));
        let removed = ReportRequest { removed: vec!["a".into()], ..ReportRequest::default() };
        assert!(take(&mut heard, None, removed, now));
    }

    #[test]
    fn what_is_told_is_cut_and_few_are_kept() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        let long = Occurrence { detail: "ä".repeat(4096), event: "x".repeat(4096), ..Occurrence::default() };
        let endless = KeptCheckpoint { loss: f64::NAN, ..kept("a") };
        let told = ReportRequest { occurrences: vec![long], kept: vec![endless, kept("")], ..ReportRequest::default() };
        take(&mut heard, None, told, now);
        assert_eq!((heard.occurrences[0].detail.len(), heard.occurrences[0].event.len()), (1024, 256));
        assert!(heard.kept.is_empty());
        for number in 0..400 {
            let told = ReportRequest { kept: vec![kept(&number.to_string())], ..ReportRequest::default() };
            take(&mut heard, None, told, now);
        }
        assert_eq!((heard.kept.len(), heard.kept[0].place.as_str()), (256, "144"));
        for report in 0..100 {
            let removed = (0..64).map(|place| format!("{report}-{place}")).collect();
            take(&mut heard, None, ReportRequest { removed, ..ReportRequest::default() }, now);
        }
        assert_eq!(heard.removed.len(), 4096);
    }

    #[test]
    fn a_loss_that_is_no_number_is_refused() {
        for loss in [f64::NAN, f64::INFINITY] {
            assert!(readable(Progress { loss, ..Progress::default() }).is_err());
        }
        assert!(bounded(Beginning { uri: "x".repeat(2049), ..Beginning::default() }).is_err());
    }
}
