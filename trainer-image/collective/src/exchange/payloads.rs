//! What is carried and not added, judged before this peer votes: its own before anything is sent, everybody else's when all of it
//! has come. Of a broadcast or a send, whoever owns a shard has judged it, too.

use std::sync::Arc;

use super::{Exchange, arithmetic};
use crate::codec::{Pairs, PairsError};
use crate::peer::Failure;
use crate::state::HASHED_AT_ONCE;
use crate::v1::{AbortReason, DataType};
use crate::{operation, reduce};

/// What has to be true of it.
#[derive(Clone, Copy)]
enum Carried {
    /// Payloads of pairs.
    Pairs(Pairs),
    /// Values, of which none is NaN or infinite.
    Values(DataType),
}

impl Exchange {
    /// Judges what these members gave; where it is long, on a thread of its own.
    ///
    /// # Errors
    /// [`Failure`] names the first member that gave what is no payload, or a value that is not finite.
    pub(super) async fn judge(self: &Arc<Self>, mut members: Vec<usize>) -> Result<(), Failure> {
        let Some(carried) = self.carried() else { return Ok(()) };
        members.retain(|member| self.plan.gives(*member, *member));
        // Of what it gives to all, its own shard is a part.
        let length = |member: &usize| if *member == self.plan.me { self.input.len() } else { self.plan.shard(*member).len() };
        let bytes: usize = members.iter().map(length).sum();
        if bytes < HASHED_AT_ONCE {
            return self.judge_now(carried, &members);
        }
        let exchange = Arc::clone(self);
        let judging = tokio::task::spawn_blocking(move || exchange.judge_now(carried, &members));
        judging.await.unwrap_or_else(|error| Err(self.bad(self.plan.me, AbortReason::Unspecified, error.to_string())))
    }

    fn carried(&self) -> Option<Carried> {
        let data_type = self.plan.operation.data_type();
        let values = || (!self.plan.adds() && data_type != DataType::U8).then_some(Carried::Values(data_type));
        operation::pairs(&self.plan.operation).map(Carried::Pairs).or_else(values)
    }

    fn judge_now(&self, carried: Carried, members: &[usize]) -> Result<(), Failure> {
        for member in members.iter().copied() {
            let shard = self.plan.shard(member);
            let own = member == self.plan.me;
            let given = if own { self.input.clone() } else { self.output.shared(shard.start, shard.end) };
            match carried {
                Carried::Pairs(pairs) => pairs.check(&given).map_err(|error| self.no_payload(member, error))?,
                Carried::Values(data_type) => reduce::judge(data_type, &given).map_err(|found| {
                    // Of what one member gives to all, this is the part in its own shard.
                    let before = if own || !self.plan.has_all(member) { 0 } else { shard.start };
                    let first = before / operation::size(data_type) as usize;
                    arithmetic::not_finite(&self.plan, member, first + found.position)
                })?,
            }
        }
        Ok(())
    }

    fn no_payload(&self, member: usize, error: PairsError) -> Failure {
        match error {
            PairsError::NotFinite(found) => {
                let detail = format!("pair {} of its payload is NaN or infinite", found.position);
                self.bad(member, AbortReason::NotFinite, detail)
            }
            error => self.bad(member, AbortReason::Mismatch, format!("its payload: {error}")),
        }
    }

    fn bad(&self, member: usize, reason: AbortReason, detail: String) -> Failure {
        Failure { reason, culprit: self.plan.members[member].slot, detail }
    }
}
