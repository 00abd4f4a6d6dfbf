//! How a pod becomes a worker of its run: it shows its token and a request, and gets a certificate and all that it must know.

use std::sync::Arc;

use atoll_collective::identity::{IdentityError, PeerName};
use atoll_collective::protocol::Versions;
use atoll_collective::secret::HEADER;
use atoll_proto::v1::enrolment_server::Enrolment;
use atoll_proto::v1::{EnrolReply, EnrolRequest};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::VALID;
use super::runs::{OfRun, Run, Runs, worker};
use super::tokens::{Shown, TokenError};
use crate::directory::Worker;
use crate::names;

/// Enrols pods of all runs.
pub(super) struct Enrolling {
    runs: Arc<Runs>,
}

impl Enrolling {
    pub(super) fn new(runs: Arc<Runs>) -> Self {
        Self { runs }
    }

    async fn answer(&self, request: Request<EnrolRequest>) -> Result<EnrolReply, Status> {
        if request.extensions().get::<Option<PeerName>>().is_some_and(Option::is_some) {
            return Err(Status::permission_denied("a certificate is asked for by the name of the hub"));
        }
        let token = bearer(request.metadata()).ok_or_else(|| Status::unauthenticated("no token is shown"))?;
        let shown = self.runs.tokens.check(token, self.runs.now()).await.map_err(|error| unproven(&error))?;
        let request = request.get_ref();
        let protocol = Versions::OURS.common(Versions::new(request.protocol_low, request.protocol_high));
        let protocol = protocol.map_err(|apart| Status::failed_precondition(apart.to_string()))?;
        let OfRun { run, served, worker } = self.worker(&shown)?;
        let reply = self.enrol(&run, &worker, request).await?;
        Ok(EnrolReply { name: run.attempt.key.name.clone(), protocol, settings: Some(served.settings), ..reply })
    }

    /// The run of the pod, and which of its workers it is.
    fn worker(&self, shown: &Shown) -> Result<OfRun, Status> {
        let pod = &shown.pod;
        let found = self.runs.of_pod(&pod.namespace, &pod.uid).map_err(|error| unsigned(&error))?;
        // It may have started before its controller has seen it, or before this operator knows its run.
        let found = found.ok_or_else(|| Status::unavailable(format!("pod {} is of no run that is served here yet", pod.name)))?;
        let audience = names::audience(&found.run.attempt.uid);
        shown.is_for(&audience).map_err(|error| Status::permission_denied(error.to_string()))?;
        if found.worker.pod != pod.name {
            return Err(Status::permission_denied(format!("pod {} is not {}", pod.name, found.worker.pod)));
        }
        Ok(found)
    }

    async fn enrol(&self, run: &Run, pod: &Worker, request: &EnrolRequest) -> Result<EnrolReply, Status> {
        let (record, slot, now) = (run.grants.known().await?.record, pod.slot, self.runs.now());
        let known = record.members.iter().chain(&record.coordinator).filter(|member| member.slot == slot);
        let recorded = known.map(|member| member.incarnation).max().unwrap_or_default();
        let certificate_chain = run.authority.sign(&worker(slot), &request.certificate_request, now);
        let certificate_chain = certificate_chain.map_err(|error| unsigned(&error))?;
        let incarnation = run.incarnation(slot, request.incarnation, recorded, now);
        let incarnation =
            incarnation.ok_or_else(|| Status::permission_denied("a later process of this worker has been enrolled"))?;
        Ok(EnrolReply {
            run: run.wire.clone(),
            worker: worker(slot),
            island: run.island().to_owned(),
            slot,
            incarnation,
            certificate_chain,
            run_root: run.authority.root().to_owned(),
            valid_seconds: VALID.as_secs(),
            secret: run.authority.secret().to_owned(),
            ..EnrolReply::default()
        })
    }
}

#[tonic::async_trait]
impl Enrolment for Enrolling {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<EnrolReply>, Status> {
        let answer = self.answer(request).await;
        let outcome = outcome(answer.as_ref().map_or_else(Status::code, |_| Code::Ok));
        self.runs.metrics.enrolments.with_label_values(&[outcome]).inc();
        if let Err(status) = &answer {
            tracing::info!(outcome, reason = status.message(), "a pod was not enrolled");
        }
        answer.map(Response::new)
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(HEADER)?.to_str().ok()?.strip_prefix("Bearer ")
}

fn unproven(error: &TokenError) -> Status {
    match error {
        TokenError::Keys(_) => Status::unavailable(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}

/// Where the request is to blame, it is told so.
fn unsigned(error: &IdentityError) -> Status {
    match error {
        IdentityError::Request(_) | IdentityError::LongRequest { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::internal(error.to_string()),
    }
}

/// As the metric calls it.
fn outcome(code: Code) -> &'static str {
    match code {
        Code::Ok => "enrolled",
        Code::Unavailable => "later",
        Code::Unauthenticated => "unproven",
        Code::PermissionDenied => "refused",
        Code::FailedPrecondition => "incompatible",
        Code::InvalidArgument => "malformed",
        _ => "failed",
    }
}
