//! Payloads of pairs, judged before this peer votes: its own before anything is sent, everybody else's when all of it has come.

use std::sync::Arc;

use super::Exchange;
use crate::codec::{Pairs, PairsError};
use crate::operation;
use crate::peer::Failure;
use crate::state::HASHED_AT_ONCE;
use crate::v1::AbortReason;

impl Exchange {
    /// Judges what these members gave, where that is payloads; long ones on a thread of its own.
    ///
    /// # Errors
    /// [`Failure`] names the first member whose payload is none.
    pub(super) async fn judge(self: &Arc<Self>, members: Vec<usize>) -> Result<(), Failure> {
        let Some(pairs) = operation::pairs(&self.plan.operation) else { return Ok(()) };
        let bytes: usize = members.iter().map(|member| self.plan.shard(*member).len()).sum();
        if bytes < HASHED_AT_ONCE {
            return self.judge_now(pairs, &members);
        }
        let exchange = Arc::clone(self);
        let judging = tokio::task::spawn_blocking(move || exchange.judge_now(pairs, &members));
        judging.await.unwrap_or_else(|error| Err(self.bad(self.plan.me, AbortReason::Unspecified, error.to_string())))
    }

    fn judge_now(&self, pairs: Pairs, members: &[usize]) -> Result<(), Failure> {
        for member in members {
            let shard = self.plan.shard(*member);
            let payload = if *member == self.plan.me { self.input.clone() } else { self.output.shared(shard.start, shard.end) };
            pairs.check(&payload).map_err(|error| match error {
                PairsError::NotFinite(found) => {
                    let detail = format!("pair {} of its payload is NaN or infinite", found.position);
                    self.bad(*member, AbortReason::NotFinite, detail)
                }
                error => self.bad(*member, AbortReason::Mismatch, format!("its payload: {error}")),
            })?;
        }
        Ok(())
    }

    fn bad(&self, member: usize, reason: AbortReason, detail: String) -> Failure {
        Failure { reason, culprit: self.plan.members[member].slot, detail }
    }
}
