//! Operations that the trainer asked for: gathered from its ranks, moved, and answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_collective::exchange::{Exchange, Plan, feed_back};
use atoll_collective::operation::{self, Key};
use atoll_collective::peer::{self, Failure, Outcome};
use atoll_collective::v1::{
    AbortReason, Aborted, Begin, Committed, Contribution, Enter, InDoubt, OperateReply, OperateRequest, Operation, OperationKind,
    Slice, operate_reply,
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
use crate::turn::{self, Ended, Turn};

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
    /// All ranks have asked for it.
    entered: bool,
    /// Why it cannot be, where a rank asks for what cannot.
    refused: Option<Status>,
}

impl Call {
    fn new(operation: Operation, ranks: usize) -> Self {
        let (given, answers) = (0..ranks).map(|_| (None, None)).unzip();
        let contribution = Contribution::default();
        Self { operation, given, answers, contribution, deadline: Millis::MAX, entered: false, refused: None }
    }

    /// What a rank gives, if it asks for the same as the others.
    fn fitting(&self, operation: &Operation, rank: usize, given: Given) -> Result<Given, Status> {
        if self.operation != *operation {
            let key = asked(&operation::key(Some(operation)));
            return Err(Status::invalid_argument(format!("another rank asks for another {key}")));
        }
        let others = self.given.iter().enumerate().filter(|(other, _)| *other != rank).filter_map(|(_, given)| given.as_ref());
        if others.map(|given| u64::from(given.weight)).sum::<u64>() + u64::from(given.weight) > u64::from(u32::MAX) {
            return Err(Status::invalid_argument("the ranks' weights together are more than 2^32 - 1"));
        }
        Ok(given)
    }

    /// A rank asks, and waits until `until`; why it cannot get what it asks for is told to all.
    fn ask(&mut self, rank: usize, given: Result<Given, Status>, answer: Answer<OperateReply>, until: Millis) {
        self.answers[rank] = Some(answer);
        self.deadline = self.deadline.min(until);
        match given {
            Ok(given) => self.given[rank] = Some(given),
            Err(refused) if self.answers.len() == 1 => self.refused = Some(refused),
            Err(refused) => {
                let told = || Status::new(refused.code(), format!("rank {rank}: {}", refused.message()));
                self.refused.get_or_insert_with(told);
            }
        }
    }

    /// Why it is refused, once every rank waits to hear it: the first that hears it may end, and then there is no trainer any more
    /// that the others could ask as.
    fn refusal(&self) -> Option<&Status> {
        self.refused.as_ref().filter(|_| self.answers.iter().all(Option::is_some))
    }

    /// The first rank that others still wait for at their deadline.
    fn missing(&self, now: Millis) -> Option<usize> {
        let waits = now >= self.deadline && self.answers.iter().any(Option::is_some);
        self.answers.iter().position(Option::is_none).filter(|_| waits)
    }

    /// Answers every rank that waits.
    fn answer(&mut self, told: &Result<OperateReply, Status>) {
        self.deadline = Millis::MAX;
        for answer in self.answers.iter_mut().filter_map(Option::take) {
            let _gone = answer.send(told.clone());
        }
    }

    /// Nobody waits for it any more; that it was refused is told all the same.
    fn forget(mut self) {
        if let Some(refused) = self.refused.take() {
            self.answer(&Err(refused));
        }
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
    turn: Arc<Turn>,
}

/// What is left to do for those who waited for an operation.
struct Rest {
    answers: Vec<Answer<OperateReply>>,
    outcome: operate_reply::Outcome,
    /// Outputs that get what the first has.
    spread: Vec<Part>,
    /// What was given, and where what coding lost of it goes.
    fed_back: Option<(Operation, (Part, Part))>,
}

impl Rest {
    fn is_long(&self) -> bool {
        !self.spread.is_empty() || self.fed_back.is_some()
    }

    fn carry_out(self) {
        ranks::spread(&self.spread);
        if let Some((operation, (input, mut residual))) = self.fed_back
            && let Some(lost) = residual.values_mut()
            && let Err(error) = feed_back(&operation, input.as_ref(), lost)
        {
            tracing::warn!(%error, "the residual stays as it was");
        }
        for answer in self.answers {
            let _gone = answer.send(Ok(OperateReply { outcome: Some(self.outcome.clone()) }));
        }
    }
}

/// Checks a residual: that contributions are coded, and that it has as many bytes as the input, where f32 values can be written.
fn check_residual(residual: &Slice, input: Option<&Slice>, group_size: u32) -> Result<(), Status> {
    let (offset, length, given) = (residual.offset, residual.length, input.map_or(0, |input| input.length));
    let wrong = if group_size > 1 {
        format!(
            "residual: sums of groups of {group_size} are coded, and no contribution: leave out the residual or the group_size"
        )
    } else if !offset.is_multiple_of(4) {
        format!("residual.offset is {offset}: f32 values are written there, begin it at a multiple of 4")
    } else if length != given {
        format!("residual.length is {length}: make it as long as the input, {given} bytes")
    } else {
        return Ok(());
    };
    Err(Status::invalid_argument(wrong))
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
    fn gather(
        &mut self,
        mut request: OperateRequest,
        answer: Answer<OperateReply>,
    ) -> Result<(), (Status, Answer<OperateReply>)> {
        let ranks = match self.trainer.as_ref().filter(|trainer| trainer.incarnation == request.incarnation) {
            Some(trainer) if trainer.ranks() > request.rank as usize => trainer.ranks(),
            _ => return Err((Status::unavailable("the trainer is not attached"), answer)),
        };
        let operation = request.operation.take();
        let given = self.given(&request, operation.as_ref(), ranks);
        let Some(operation) = operation else {
            let unnamed = Status::invalid_argument("no operation is named");
            return Err((given.err().unwrap_or(unnamed), answer));
        };
        let (rank, until) = (request.rank as usize, self.now().saturating_add(request.deadline_milliseconds));
        let key = asked(&operation::key(Some(&operation)));
        let call = self.calls.entry(key.clone()).or_insert_with(|| Call::new(operation.clone(), ranks));
        let given = given.and_then(|given| call.fitting(&operation, rank, given));
        // What all have asked for goes on as they did.
        let given = match given {
            Err(refused) if call.entered => return Err((refused, answer)),
            given => given,
        };
        call.ask(rank, given, answer, until);
        if rank == 0 {
            let (slot, samples, loss) = (self.me.slot, request.samples, request.loss);
            call.contribution = Contribution { slot, samples, loss, ..Contribution::default() };
        }
        if let Some(refused) = call.refusal().cloned() {
            call.answer(&Err(refused));
            self.calls.remove(&key);
        } else if let Some(enter) = call.complete(self.lanes.bandwidth().unwrap_or(0)) {
            call.entered = true;
            let deadline = call.deadline;
            self.peer_event(peer::Event::Entered(enter, deadline));
        }
        Ok(())
    }

    /// What one of so many ranks gives, and where it wants the result.
    fn given(&self, request: &OperateRequest, operation: Option<&Operation>, ranks: usize) -> Result<Given, Status> {
        if ranks > 1 && (!operation.is_none_or(ranks::can) || request.residual.is_some()) {
            let detail = "several ranks of a worker keep no residual and gather no payloads of pairs: leave them to one rank";
            return Err(Status::invalid_argument(detail));
        }
        if let Some(residual) = &request.residual {
            check_residual(residual, request.input.as_ref(), operation.map_or(0, |operation| operation.group_size))?;
        }
        if let Some(operation) = operation {
            operation::check(operation).map_err(Status::invalid_argument)?;
            operation::check_loss(operation, request.loss).map_err(Status::invalid_argument)?;
            operation::check_samples(operation, &request.samples).map_err(Status::invalid_argument)?;
        }
        let part = |slice: &Option<Slice>| {
            let Some(slice) = slice else { return Ok(None) };
            let part = self.shared.regions.part(request.incarnation, Some(slice)).map(Some);
            part.ok_or_else(|| Status::invalid_argument("input, output or residual is not part of a region"))
        };
        let (input, output, residual) = (part(&request.input)?, part(&request.output)?, part(&request.residual)?);
        Ok(Given { input, output, residual, weight: request.weight })
    }

    /// Ranks whose deadline passes while another rank of theirs has not asked: the peer knows nothing of them.
    pub(super) fn overdue_ranks(&mut self) {
        let now = self.now();
        let slot = self.me.slot;
        self.calls.retain(|_, call| {
            let Some(missing) = call.missing(now) else { return true };
            let late = Aborted {
                reason: AbortReason::Deadline.into(),
                detail: format!("rank {missing} has not asked for it before the operation's deadline passed"),
                culprit: Some(slot),
            };
            // It was voted for, and all asked for it once.
            let doubt = operate_reply::Outcome::InDoubt(InDoubt {});
            let outcome = if call.entered { doubt } else { operate_reply::Outcome::Aborted(late) };
            let told = Ok(OperateReply { outcome: Some(outcome) });
            call.answer(&call.refused.clone().map_or(told, Err));
            call.entered
        });
    }

    /// Lets go those who waited for these: what was given for them is theirs again.
    pub(super) fn forget(&mut self, calls: BTreeMap<Key, Call>) {
        turn::after(self.still_writing(), false, || calls.into_values().for_each(Call::forget));
    }

    /// Turns that were ended, and may still write a piece.
    fn still_writing(&mut self) -> Vec<Ended> {
        self.ending.retain(|turn| !turn.is_over());
        self.ending.clone()
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
        let turn = Arc::<Turn>::default();
        let moving = self.moving(key, (term, number), &turn);
        let span = self.observation.span(key);
        let task = if given.len() > 1 {
            // Now: the next one may begin before what these ranks give is put together.
            self.shared.operations.reserve(term, number);
            tokio::spawn(work::reduce_ranks(plan, given, moving).instrument(span))
        } else {
            let Some(Given { input, output, residual, .. }) = given.into_iter().next() else {
                return Err(mismatch("nothing is given"));
            };
            let input = input.map(|input| input.shared()).unwrap_or_default();
            let residual = residual.map(|residual| residual.shared());
            let exchange = Exchange::new(plan, input, residual, work::output_of(output, &turn))?;
            self.shared.operations.reserve(term, number);
            tokio::spawn(work::exchange(exchange, moving).instrument(span))
        };
        self.attempts.insert(key.clone(), Attempt { term, number, task, turn });
        Ok(())
    }

    fn moving(&mut self, key: &Key, attempt: (u64, u64), turn: &Arc<Turn>) -> work::Moving {
        work::Moving {
            key: key.clone(),
            attempt,
            inbox: self.inbox.clone(),
            metrics: Arc::clone(self.observation.metrics()),
            begun: Instant::now(),
            operations: self.shared.operations.clone(),
            lanes: self.lanes.clone(),
            patience: self.config.progress,
            turn: Arc::clone(turn),
            earlier: self.still_writing(),
        }
    }

    /// Ends the data movement of an operation, if there is one; its output is not written any more, but for pieces that are being
    /// written.
    pub(super) fn halt(&mut self, key: &Key) {
        if let Some(Attempt { term, number, task, turn }) = self.attempts.remove(key) {
            self.ending.push(turn.end());
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
        // Ranks whose own sum is the result wrote it to all of them.
        let shared = matches!(&outcome, Outcome::Committed(commit) if !ranks::are_all(&call.operation, commit.slots.len()));
        if !matches!(outcome, Outcome::InDoubt) {
            self.calls.remove(&name);
        }
        let payload = outputs.first().map_or(0, Part::len) as u64;
        let spread = if shared && outputs.len() > 1 { outputs } else { Vec::new() };
        let outcome = match outcome {
            Outcome::Committed(commit) => {
                let metrics = self.observation.metrics();
                metrics.payload_bytes.inc_by(payload);
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
        let rest = Rest { answers, outcome, spread, fed_back };
        turn::after(self.still_writing(), rest.is_long(), || rest.carry_out());
    }
}

#[cfg(test)]
mod tests {
    use atoll_collective::v1::{EpochRecord, Member, OperationKey};
    use tokio::sync::oneshot;
    use tonic::Code;

    use super::super::sessions::tests::core;
    use super::*;

    type End = oneshot::Receiver<Result<OperateReply, Status>>;

    fn given(weight: u32) -> Given {
        Given { input: None, output: None, residual: None, weight }
    }

    /// A call of so many ranks, and the ends on which they wait.
    fn call(ranks: usize) -> (Call, Vec<Answer<OperateReply>>, Vec<End>) {
        let (answers, ends) = (0..ranks).map(|_| oneshot::channel()).unzip();
        (Call::new(Operation::default(), ranks), answers, ends)
    }

    #[test]
    fn a_refusal_is_told_to_all_ranks_when_all_have_asked() {
        let (mut call, answers, mut ends) = call(3);
        let asks = [Ok(given(1)), Err(Status::invalid_argument("no")), Err(Status::invalid_argument("neither"))];
        for (rank, (asks, answer)) in asks.into_iter().zip(answers).enumerate() {
            assert!(call.refusal().is_none(), "rank {rank} has not asked yet");
            call.ask(rank, asks, answer, 5);
        }
        let refused = call.refusal().unwrap().clone();
        assert_eq!(refused.message(), "rank 1: no");
        assert!(call.complete(0).is_none(), "it is not entered");
        call.answer(&Err(refused));
        for end in &mut ends {
            assert_eq!(end.try_recv().unwrap().unwrap_err().message(), "rank 1: no");
        }
    }

    #[test]
    fn a_refusal_is_told_also_when_the_call_is_forgotten_and_nothing_else_is() {
        let (mut refused, mut answers, mut ends) = call(2);
        refused.ask(0, Err(Status::invalid_argument("no")), answers.remove(0), 5);
        refused.forget();
        assert_eq!(ends[0].try_recv().unwrap().unwrap_err().message(), "rank 0: no");
        let (mut waiting, mut answers, mut ends) = call(2);
        waiting.ask(0, Ok(given(1)), answers.remove(0), 5);
        waiting.forget();
        assert!(matches!(ends[0].try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    }

    #[test]
    fn ranks_have_to_ask_for_the_same_with_weights_that_fit() {
        let (mut call, mut answers, _ends) = call(2);
        call.ask(0, Ok(given(u32::MAX)), answers.remove(0), 5);
        assert!(call.fitting(&Operation::default(), 1, given(0)).is_ok());
        assert!(call.fitting(&Operation::default(), 1, given(1)).is_err());
        assert!(call.fitting(&Operation { root: 1, ..Operation::default() }, 1, given(0)).is_err());
        assert!(call.fitting(&Operation::default(), 0, given(1)).is_ok(), "it asks again, with another weight");
    }

    #[test]
    fn a_residual_that_could_not_be_written_is_refused_by_its_field() {
        let slice = |offset, length| Slice { region: "1/0/residual".into(), offset, length };
        let refused = |residual, input: Option<Slice>| {
            let status = check_residual(&residual, input.as_ref(), 0).unwrap_err();
            (status.code(), status.message().to_owned())
        };
        check_residual(&slice(4, 12), Some(&slice(0, 12)), 1).unwrap();
        let offset = "residual.offset is 6: f32 values are written there, begin it at a multiple of 4";
        assert_eq!(refused(slice(6, 12), Some(slice(0, 12))), (Code::InvalidArgument, offset.into()));
        let length = |given| format!("residual.length is 8: make it as long as the input, {given} bytes");
        assert_eq!(refused(slice(0, 8), Some(slice(0, 12))), (Code::InvalidArgument, length(12)));
        assert_eq!(refused(slice(0, 8), None), (Code::InvalidArgument, length(0)));
        let groups = check_residual(&slice(4, 12), Some(&slice(0, 12)), 2).unwrap_err();
        let none = "residual: sums of groups of 2 are coded, and no contribution: leave out the residual or the group_size";
        assert_eq!((groups.code(), groups.message()), (Code::InvalidArgument, none));
    }

    #[test]
    fn a_rank_that_waits_for_another_waits_until_the_deadline() {
        let (mut call, mut answers, _ends) = call(2);
        assert_eq!(call.missing(Millis::MAX), None, "nobody waits");
        call.ask(1, Ok(given(1)), answers.remove(1), 5);
        assert_eq!((call.missing(4), call.missing(5)), (None, Some(0)));
        call.ask(0, Ok(given(1)), answers.remove(0), 5);
        assert_eq!(call.missing(5), None, "all have asked: the peer knows the deadline");
    }

    /// A barrier of two, as an attempt of this number.
    fn begin(number: u64) -> Begin {
        let members: Vec<_> = (0..2).map(|slot| Member { slot, incarnation: 1, ..Member::default() }).collect();
        let contributions = members.iter().map(|member| Contribution { slot: member.slot, ..Contribution::default() }).collect();
        let key = Some(OperationKey { round: 1, sequence: 1, ..OperationKey::default() });
        let operation = Some(Operation { key, kind: OperationKind::Barrier.into(), ..Operation::default() });
        let record = Some(EpochRecord { term: 1, members, ..EpochRecord::default() });
        Begin { operation, number, record, contributions, ..Begin::default() }
    }

    /// A sidecar whose two ranks wait for a barrier, of which the first attempt is under way.
    fn moving() -> (Core, Key, Arc<Turn>, Vec<End>) {
        let (mut core, _inputs) = core();
        let begin = begin(1);
        let key = operation::key(begin.operation.as_ref());
        let (mut call, answers, ends) = call(2);
        answers.into_iter().enumerate().for_each(|(rank, answer)| call.ask(rank, Ok(given(1)), answer, 5));
        core.calls.insert(key.clone(), call);
        core.start_moving(&begin);
        let turn = Arc::clone(&core.attempts[&key].turn);
        (core, key, turn, ends)
    }

    #[tokio::test]
    async fn an_attempt_of_several_ranks_is_reserved_before_anything_of_it_is_put_together() {
        let (core, key, turn, _ends) = moving();
        let plan = Plan::new(&begin(1), 0).unwrap();
        let exchange = Exchange::new(plan, bytes::Bytes::new(), None, work::output_of(None, &turn)).unwrap();
        assert!(core.shared.operations.begin_reserved(exchange), "{key} is reserved");
    }

    #[tokio::test]
    async fn the_next_attempt_begins_after_the_last_piece_of_the_one_before() {
        let (mut core, key, turn, _ends) = moving();
        turn.piece(|| {
            core.start_moving(&begin(2));
            assert_eq!(core.moving(&key, (1, 2), &Arc::default()).earlier.len(), 1);
        });
        assert_eq!(turn.piece(|| ()), None, "it has ended");
        assert!(core.moving(&key, (1, 2), &Arc::default()).earlier.is_empty());
        assert_eq!(core.attempts[&key].turn.piece(|| 2), Some(2), "this one has not");
    }

    #[tokio::test]
    async fn ranks_hear_of_an_abort_when_nothing_is_written_any_more() {
        let (mut core, key, turn, mut ends) = moving();
        turn.piece(|| {
            core.halt(&key);
            core.ended(&key, Outcome::Aborted(Refusal { reason: AbortReason::PeerLost, culprit: None, detail: String::new() }));
            assert!(ends.iter_mut().all(|end| matches!(end.try_recv(), Err(oneshot::error::TryRecvError::Empty))));
        });
        for end in ends {
            assert!(matches!(end.await.unwrap().unwrap().outcome, Some(operate_reply::Outcome::Aborted(_))));
        }
    }

    #[tokio::test]
    async fn ranks_that_are_taken_for_lost_are_let_go_when_nothing_is_written_any_more() {
        let (mut core, key, turn, mut ends) = moving();
        turn.piece(|| {
            core.halt(&key);
            core.lose_trainer();
            assert!(ends.iter_mut().all(|end| matches!(end.try_recv(), Err(oneshot::error::TryRecvError::Empty))));
        });
        for end in ends {
            assert!(end.await.is_err(), "dropped without an answer");
        }
    }
}
