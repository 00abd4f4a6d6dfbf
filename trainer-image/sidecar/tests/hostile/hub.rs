//! The arbiter of a run of this test.

use std::sync::{Arc, Mutex};

use atoll_collective::arbiter::Single;
use atoll_collective::v1::arbiter_server::Arbiter;
use atoll_collective::v1::{BeatReply, BeatRequest, EpochRequest, Member, Ruling, TermRequest};
use tonic::{Request, Response, Status};

/// The arbiter, and whoever it has heard of.
#[derive(Clone)]
pub(crate) struct Hub(pub(crate) Arc<Mutex<(Single, Vec<Member>)>>);

impl Hub {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new((Single::new(2_000), Vec::new()))))
    }
}

#[tonic::async_trait]
impl Arbiter for Hub {
    async fn beat(&self, request: Request<BeatRequest>) -> Result<Response<BeatReply>, Status> {
        let member = request.into_inner().member.unwrap();
        let (single, heard) = &mut *self.0.lock().unwrap();
        heard.retain(|other| other.slot != member.slot);
        let record = Some(single.beat(&member, 0));
        heard.push(member);
        Ok(Response::new(BeatReply { record, hub: None }))
    }

    async fn request_term(&self, request: Request<TermRequest>) -> Result<Response<Ruling>, Status> {
        let TermRequest { candidate, observed_term, .. } = request.into_inner();
        Ok(Response::new(self.0.lock().unwrap().0.request_term(&candidate.unwrap(), observed_term, 0)))
    }

    async fn grant_epoch(&self, request: Request<EpochRequest>) -> Result<Response<Ruling>, Status> {
        Ok(Response::new(self.0.lock().unwrap().0.grant_epoch(&request.into_inner().proposed.unwrap())))
    }
}
