//! The gRPC service of whoever grants or votes: the hub, and every sidecar, of which those without a vote hear beats. It answers
//! questions of its run alone, and a process may ask for itself alone.

use tonic::{Request, Response, Status};

use super::{process, proposer};
use crate::identity::PeerName;
use crate::v1::arbiter_server::Arbiter;
use crate::v1::{BeatReply, BeatRequest, EpochRequest, Member, Ruling, TermRequest};

/// Who answers.
#[tonic::async_trait]
pub trait Answers: Send + Sync + 'static {
    /// Hears a heartbeat.
    async fn beat(&self, request: BeatRequest) -> Result<BeatReply, Status>;
    /// Answers a question for a term, or for a promise.
    async fn request_term(&self, request: TermRequest) -> Result<Ruling, Status>;
    /// Answers a question for an epoch, or whether it accepts a record.
    async fn grant_epoch(&self, request: EpochRequest) -> Result<Ruling, Status>;
}

/// Checks who asks, before anybody answers.
#[derive(Debug, Clone)]
pub struct Service<A> {
    run: String,
    answers: A,
}

impl<A: Answers> Service<A> {
    /// The service of `answers` for `run`.
    #[must_use]
    pub fn new(run: String, answers: A) -> Self {
        Self { run, answers }
    }

    /// The message of a request, where `asker` finds in it the very process whose certificate the connection has shown.
    fn admit<T>(&self, request: Request<T>, run: fn(&T) -> &str, asker: fn(&T) -> Option<&Member>) -> Result<T, Status> {
        let name = request.extensions().get::<Option<PeerName>>().cloned().flatten();
        let message = request.into_inner();
        if run(&message) != self.run {
            return Err(Status::not_found(format!("this is run {}", self.run)));
        }
        let asker = asker(&message).ok_or_else(|| Status::invalid_argument("it does not say who asks"))?;
        let itself = |name: &PeerName| (name.worker(), name.island()) == (&*asker.worker, &*asker.island);
        if name.as_ref().is_none_or(itself) {
            Ok(message)
        } else {
            Err(Status::permission_denied("the certificate is another worker's"))
        }
    }
}

/// The process that asks for a term, and whose ballot it is where there is one.
fn candidate(request: &TermRequest) -> Option<&Member> {
    request.candidate.as_ref().filter(|candidate| request.ballot.is_none_or(|ballot| proposer(&ballot) == process(candidate)))
}

/// The process that asks for an epoch: `Single` is asked by the coordinator, a voter by the process of the ballot.
fn asks_for_epoch(request: &EpochRequest) -> Option<&Member> {
    match request.ballot {
        None => request.proposed.as_ref()?.coordinator.as_ref(),
        Some(ballot) => request.proposer.as_ref().filter(|asker| proposer(&ballot) == process(asker)),
    }
}

#[tonic::async_trait]
impl<A: Answers> Arbiter for Service<A> {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatReply>, Status> {
        let request = self.admit(request, |beat| beat.run.as_str(), |beat| beat.member.as_ref())?;
        self.answers.beat(request).await.map(Response::new)
    }

    async fn request_term(&self, request: Request<TermRequest>) -> Result<Response<Ruling>, Status> {
        let request = self.admit(request, |term| term.run.as_str(), candidate)?;
        self.answers.request_term(request).await.map(Response::new)
    }

    async fn grant_epoch(&self, request: Request<EpochRequest>) -> Result<Response<Ruling>, Status> {
        let request = self.admit(request, |epoch| epoch.run.as_str(), asks_for_epoch)?;
        self.answers.grant_epoch(request).await.map(Response::new)
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;
    use crate::v1::{Ballot, EpochRecord};

    /// Grants whatever it is asked.
    struct Generous;

    #[tonic::async_trait]
    impl Answers for Generous {
        async fn beat(&self, _request: BeatRequest) -> Result<BeatReply, Status> {
            Ok(BeatReply::default())
        }

        async fn request_term(&self, _request: TermRequest) -> Result<Ruling, Status> {
            Ok(Ruling { granted: true, ..Ruling::default() })
        }

        async fn grant_epoch(&self, _request: EpochRequest) -> Result<Ruling, Status> {
            Ok(Ruling { granted: true, ..Ruling::default() })
        }
    }

    fn member(slot: u32) -> Member {
        Member { slot, worker: format!("w{slot}"), island: "west".into(), incarnation: 1, ..Member::default() }
    }

    fn ballot(slot: u32) -> Ballot {
        Ballot { number: 1, slot, incarnation: 1 }
    }

    /// What worker 0 is answered, over a connection on which it has shown its certificate.
    fn asked<T>(message: T, ask: impl AsyncFnOnce(&Service<Generous>, Request<T>) -> Result<(), Status>) -> Code {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Some(PeerName::new("kjv", "west", "w0").unwrap()));
        let service = Service::new("kjv".into(), Generous);
        futures::executor::block_on(ask(&service, request)).map_or_else(|status| status.code(), |()| Code::Ok)
    }

    fn beat(run: &str, member: Option<Member>) -> Code {
        let request = BeatRequest { run: run.into(), member, ..BeatRequest::default() };
        asked(request, async |service, request| service.beat(request).await.map(drop))
    }

    fn term(candidate: u32, ballot: Option<Ballot>) -> Code {
        let request = TermRequest { run: "kjv".into(), candidate: Some(member(candidate)), ballot, ..TermRequest::default() };
        asked(request, async |service, request| service.request_term(request).await.map(drop))
    }

    fn epoch(coordinator: u32, ballot: Option<Ballot>, proposer: Option<u32>) -> Code {
        let proposed = Some(EpochRecord { coordinator: Some(member(coordinator)), ..EpochRecord::default() });
        let request =
            EpochRequest { run: "kjv".into(), proposed, ballot, proposer: proposer.map(member), ..EpochRequest::default() };
        asked(request, async |service, request| service.grant_epoch(request).await.map(drop))
    }

    #[test]
    fn a_process_asks_for_itself_alone() {
        assert_eq!((beat("kjv", Some(member(0))), beat("kjv", Some(member(1)))), (Code::Ok, Code::PermissionDenied));
        assert_eq!((term(0, None), term(1, None)), (Code::Ok, Code::PermissionDenied));
        assert_eq!((term(0, Some(ballot(0))), term(0, Some(ballot(1)))), (Code::Ok, Code::InvalidArgument));
        let abroad = Member { island: "east".into(), ..member(0) };
        assert_eq!(beat("kjv", Some(abroad)), Code::PermissionDenied);
    }

    #[test]
    fn a_voter_hears_whose_ballot_it_is_whoever_made_the_record() {
        assert_eq!((epoch(0, None, None), epoch(1, None, None)), (Code::Ok, Code::PermissionDenied));
        assert_eq!(epoch(1, Some(ballot(0)), Some(0)), Code::Ok);
        assert_eq!(epoch(0, Some(ballot(1)), Some(1)), Code::PermissionDenied);
        assert_eq!(epoch(0, Some(ballot(1)), Some(0)), Code::InvalidArgument);
        assert_eq!(epoch(0, Some(ballot(0)), None), Code::InvalidArgument);
    }

    #[test]
    fn another_run_and_nobody_are_refused() {
        assert_eq!((beat("other", Some(member(0))), beat("kjv", None)), (Code::NotFound, Code::InvalidArgument));
    }
}
