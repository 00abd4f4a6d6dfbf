//! Operations that the trainer asked for: gathered from its ranks, moved, and answered.

use std::sync::Arc;

use atoll_collective::exchange::{Exchange, Plan, feed_back};
use atoll_collective::operation::{self, Key};
use atoll_collective::peer::{self, Failure, Outcome};
use atoll_collective::v1::{
    AbortReason, Aborted, Begin, Committed, Contribution, Enter, InDoubt, OperateReply, OperateRequest, Operation, OperationKind,
    operate_reply,
};
use atoll_collective::{Millis, Refusal};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;
use tracing::Instrument;

use super::Core;
use crate::operation as work;
use crate::ranks;
use crate::regions::Part;
use crate::trainer::Answer;

/// What one rank gives, and where it wants the result.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) input: Option<Part>,
    pub(crate) output: Option<Part>,
    pub(crate) residual: Option<Part>,
    pub(crate) weight: u32,
}

/// An operation that the ranks ask for.
pub(super) struct Call {
    operation: Operation,
    given: Vec<Option<Given>>,
    answers: Vec<Option<Answer<OperateReply>>>,
    /// What the worker gives, and until when it waits: rank 0's.
    contribution: Contribution,
    deadline: Millis,
}

impl Call {
    fn new(operation: Operation, ranks: usize) -> Self {
        let (given, answers) = (0..ranks).map(|_| (None, None)).unzip();
        Self { operation, given, answers, contribution: Contribution::default(), deadline: Millis::MAX }
    }

    /// What all ranks together give, over lanes that carry `bandwidth`; none before all have asked.
    fn complete(&self, bandwidth: u64) -> Option<Enter> {
        let given: Vec<&Given> = self.given.iter().map(Option::as_ref).collect::<Option<_>>()?;
        if self.answers.iter().any(Option::is_none) {
            return None;
        }
        let weight = given.iter().map(|given| given.weight).sum();
        let size = operation::size(self.operation.data_type());
        let elements = given.iter().filter_map(|given| given.input.as_ref()).map(|input| input.len() as u64 / size).sum();
        let elements = if self.operation.kind() == OperationKind::AllGather { elements } else { 0 };
        let contribution = Contribution { weight, elements, summed: given.len() > 1, ..self.contribution.clone() };
        Some(Enter { operation: Some(self.operation.clone()), contribution: Some(contribution), bandwidth })
    }
}

/// An attempt under way.
pub(super) struct Attempt {
    term: u64,
    number: u64,
    task: JoinHandle<()>,
}

/// The trainer's name of an operation: which start of the round it belongs to, the peer knows.
pub(super) fn asked(key: &Key) -> Key {
    Key { started: 0, ..key.clone() }
}

impl Core {
    pub(super) fn operate(&mut self, request: OperateRequest, answer: Answer<OperateReply>) {
        if let Err((refused, answer)) = self.gather(request, answer) {
            let _gone = answer.send(Err(refused));
        }
    }

    /// Adds a rank's call to its operation, and enters it when all ranks have called.
    fn gather(&mut self, request: OperateRequest, answer: Answer<OperateReply>) -> Result<(), (Status, Answer<OperateReply>)> {
        let ranks = match self.trainer.as_ref().filter(|trainer| trainer.incarnation == request.incarnation) {
            Some(trainer) if trainer.ranks() > request.rank as usize => trainer.ranks(),
            _ => return Err((Status::unavailable("the trainer is not attached"), answer)),
        };
        let parts = [&request.input, &request.output, &request.residual].map(|slice| {
            slice.as_ref().map(|slice| self.shared.regions.part(request.incarnation, Some(slice))).map_or(Ok(None), |part| {
                part.map(Some).ok_or_else(|| Status::invalid_argument("input, output or residual is not part of a region"))
            })
        });
        let (input, output, residual) = match parts {
            [Ok(input), Ok(output), Ok(residual)] => (input, output, residual),
            [Err(refused), ..] | [_, Err(refused), _] | [.., Err(refused)] => return Err((refused, answer)),
        };
        let Some(operation) = request.operation else {
            return Err((Status::invalid_argument("no operation is named"), answer));
        };
        if ranks > 1 && (!ranks::can(&operation) || residual.is_some()) {
            let detail = "several ranks of a worker keep no residual and gather no payloads of pairs: leave them to one rank";
            return Err((Status::invalid_argument(detail), answer));
        }
        let key = asked(&operation::key(Some(&operation)));
        let now = self.now();
        let call = self.calls.entry(key.clone()).or_insert_with(|| Call::new(operation.clone(), ranks));
        if call.operation != operation {
            return Err((Status::invalid_argument(format!("another rank asks for another {key}")), answer));
        }
        let rank = request.rank as usize;
        let others = call.given.iter().enumerate().filter(|(other, _)| *other != rank).filter_map(|(_, given)| given.as_ref());
        if others.map(|given| u64::from(given.weight)).sum::<u64>() + u64::from(request.weight) > u64::from(u32::MAX) {
            return Err((Status::invalid_argument("the ranks' weights together are more than 2^32 - 1"), answer));
        }
        call.given[rank] = Some(Given { input, output, residual, weight: request.weight });
        call.answers[rank] = Some(answer);
        call.deadline = call.deadline.min(now.saturating_add(request.deadline_milliseconds));
        if rank == 0 {
            let (slot, samples, loss) = (self.me.slot, request.samples, request.loss);
            call.contribution = Contribution { slot, samples, loss, ..Contribution::default() };
        }
        let (entered, deadline) = (call.complete(self.lanes.bandwidth().unwrap_or(0)), call.deadline);
        if let Some(enter) = entered {
            self.peer_event(peer::Event::Entered(enter, deadline));
        }
        Ok(())
    }

    pub(super) fn start_moving(&mut self, begin: &Begin) {
        let key = operation::key(begin.operation.as_ref());
        self.halt(&key);
        if let Err(failure) = self.try_moving(begin, &key) {
            let term = begin.record.as_ref().map_or(0, |record| record.term);
            self.peer_event(peer::Event::Moved(key, (term, begin.number), Err(failure)));
        }
    }

    fn try_moving(&mut self, begin: &Begin, key: &Key) -> Result<(), Failure> {
        let culprit = self.me.slot;
        let mismatch = |detail: &str| Failure { reason: AbortReason::Mismatch, culprit, detail: detail.to_owned() };
        let call = self.calls.get(&asked(key)).ok_or_else(|| mismatch("its trainer does not wait for it"))?;
        let given: Vec<Given> = call.given.iter().flatten().cloned().collect();
        let plan = Plan::new(begin, self.me.slot).ok_or_else(|| mismatch("the operation makes no sense"))?;
        let (term, number) = (plan.term, plan.number);
        let (inbox, metrics) = (self.inbox.clone(), Arc::clone(self.observation.metrics()));
        let moving = work::Moving { key: key.clone(), attempt: (term, number), inbox, metrics, begun: Instant::now() };
        let span = self.observation.span(key);
        let task = if given.len() > 1 {
            let moves = (self.shared.operations.clone(), self.lanes.clone(), self.config.progress);
            tokio::spawn(work::reduce_ranks(plan, given, moves, moving).instrument(span))
        } else {
            let Some(Given { input, output, residual, .. }) = given.into_iter().next() else {
                return Err(mismatch("nothing is given"));
            };
            let input = input.map(|input| input.shared()).unwrap_or_default();
            let residual = residual.map(|residual| residual.shared());
            let exchange = Exchange::new(plan, input, residual, work::output_of(output))?;
            self.shared.operations.begin(Arc::clone(&exchange));
            tokio::spawn(work::exchange(exchange, self.lanes.clone(), self.config.progress, moving).instrument(span))
        };
        self.attempts.insert(key.clone(), Attempt { term, number, task });
        Ok(())
    }

    /// Ends the data movement of an operation, if there is one; from here on its output is not written.
    pub(super) fn halt(&mut self, key: &Key) {
        if let Some(Attempt { term, number, task }) = self.attempts.remove(key) {
            self.shared.operations.end(term, number);
            task.abort();
        }
    }

    pub(super) fn ended(&mut self, key: &Key, outcome: Outcome) {
        let committed = matches!(outcome, Outcome::Committed(_));
        if committed {
            self.halt(key);
        }
        // From here on the trainer changes its state.
        if matches!(&outcome, Outcome::Committed(commit) if commit.record.is_some()) {
            self.shared.offer.send_replace(None);
        }
        let name = asked(key);
        let Some(call) = self.calls.get_mut(&name) else { return };
        let answers: Vec<_> = call.answers.iter_mut().filter_map(Option::take).collect();
        call.deadline = Millis::MAX;
        let fed_back = call.given.iter().flatten().next().and_then(|given| given.input.clone().zip(given.residual.clone()));
        let fed_back = fed_back.filter(|_| committed).map(|parts| (call.operation.clone(), parts));
        let outputs: Vec<Part> = call.given.iter().flatten().filter_map(|given| given.output.clone()).collect();
        if !matches!(outcome, Outcome::InDoubt) {
            self.calls.remove(&name);
        }
        // A worker of several ranks that reduced alone wrote to all of them.
        let shared = matches!(&outcome, Outcome::Committed(commit) if commit.slots.len() > 1);
        let outcome = match outcome {
            Outcome::Committed(commit) => {
                let metrics = self.observation.metrics();
                metrics.payload_bytes.inc_by(outputs.first().map_or(0, Part::len) as u64);
                let (payload_bytes, wire_bytes) = (metrics.payload_bytes.get(), self.lanes.meter().sent());
                let control_messages = metrics.control_messages.get();
                operate_reply::Outcome::Committed(Committed {
                    commit: Some(*commit),
                    payload_bytes,
                    wire_bytes,
                    control_messages,
                })
            }
            Outcome::Aborted(Refusal { reason, culprit, detail }) => {
                operate_reply::Outcome::Aborted(Aborted { reason: reason.into(), detail, culprit })
            }
            Outcome::InDoubt => operate_reply::Outcome::InDoubt(InDoubt {}),
        };
        let answer_all = move || {
            for answer in answers {
                let _gone = answer.send(Ok(OperateReply { outcome: Some(outcome.clone()) }));
            }
        };
        if committed && (fed_back.is_some() || shared && outputs.len() > 1) {
            tokio::task::spawn_blocking(move || {
                if outputs.len() > 1 {
                    ranks::spread(&outputs);
                }
                if let Some((operation, (input, mut residual))) = fed_back
                    && let Some(lost) = residual.values_mut()
                    && let Err(error) = feed_back(&operation, input.as_ref(), lost)
                {
                    tracing::warn!(%error, "the residual stays as it was");
                }
                answer_all();
            });
        } else {
            answer_all();
        }
    }
}
