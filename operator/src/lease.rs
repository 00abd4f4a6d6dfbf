//! Which of several operators leads: the holder of one Lease.
//!
//! The holder renews it; whoever sees it unchanged for its length, by its own clock, takes it. What leads ends at once when it could
//! not renew in time, before another one can take over.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::time::Instant;

/// A lease that was not renewed for so long is free.
const LENGTH: Duration = Duration::from_secs(15);
/// Whoever could not renew for so long leads no more.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Time between two renewals, or looks.
const PERIOD: Duration = Duration::from_secs(2);
/// Longest time for one request: below what is left when two have failed.
const REQUEST: Duration = Duration::from_secs(3);

/// Takes part in the election of a leader.
#[derive(Clone)]
pub(crate) struct Candidate {
    leases: Api<Lease>,
    name: String,
    me: String,
}

/// What a look at a lease leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    /// It is ours, or free.
    Take,
    /// Another one holds it.
    Wait,
}

/// The lease as it was seen last, and since when it is so.
#[derive(Debug, Clone, Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    /// Whether the lease may be taken by `me` at `now`.
    fn look(&mut self, lease: &Lease, me: &str, now: Instant) -> Look {
        let version = lease.metadata.resource_version.clone();
        if self.version != version || self.since.is_none() {
            (self.version, self.since) = (version, Some(now));
        }
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let unchanged = self.since.map_or(Duration::ZERO, |since| now - since);
        if holder == me || holder.is_empty() || unchanged >= LENGTH { Look::Take } else { Look::Wait }
    }
}

impl Candidate {
    /// A candidate called `me` for the lease `name`.
    #[must_use]
    pub(crate) fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        Self { leases: Api::namespaced(client, namespace), name: name.to_owned(), me: me.to_owned() }
    }

    /// Waits until this candidate leads.
    pub(crate) async fn lead(&self) {
        let mut seen = Seen::default();
        loop {
            match tokio::time::timeout(REQUEST, self.try_take(&mut seen)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be read or taken"),
                Err(_) => tracing::warn!("the API server does not answer about the lease"),
            }
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Renews the lease until it is lost.
    pub(crate) async fn hold(&self) {
        let mut renewed = Instant::now();
        let mut seen = Seen::default();
        while renewed.elapsed() < GIVE_UP {
            tokio::time::sleep(PERIOD).await;
            match tokio::time::timeout(REQUEST, self.try_take(&mut seen)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return tracing::warn!("another operator holds the lease"),
                Ok(Err(error)) => tracing::warn!(%error, "the lease cannot be renewed"),
                Err(_) => tracing::warn!("the API server does not answer about the lease"),
            }
        }
    }

    /// Gives the lease back, so that nobody waits for its end.
    pub(crate) async fn release(&self) {
        let Ok(Ok(mut lease)) = tokio::time::timeout(REQUEST, self.leases.get(&self.name)).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&self.me)) else { return };
        spec.holder_identity = None;
        let _may_have_been_taken = self.leases.replace(&self.name, &PostParams::default(), &lease).await;
    }

    async fn try_take(&self, seen: &mut Seen) -> Result<bool, kube::Error> {
        let Some(lease) = self.leases.get_opt(&self.name).await? else {
            let created = self.leases.create(&PostParams::default(), &self.claimed(None)).await;
            return taken(created);
        };
        if seen.look(&lease, &self.me, Instant::now()) == Look::Wait {
            return Ok(false);
        }
        // With its version: of two that take it, one is refused.
        taken(self.leases.replace(&self.name, &PostParams::default(), &self.claimed(Some(lease))).await)
    }

    fn claimed(&self, lease: Option<Lease>) -> Lease {
        #[expect(clippy::disallowed_methods, reason = "people read it; nothing is decided by it")]
        let now = MicroTime(Timestamp::now());
        let before = lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let ours = before.holder_identity.as_deref() == Some(&self.me);
        let metadata =
            lease.map_or_else(|| ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() }, |lease| lease.metadata);
        let transitions = before.lease_transitions.unwrap_or(0) + i32::from(!ours);
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: Some(LENGTH.as_secs() as i32),
            acquire_time: if ours { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

fn taken(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta { resource_version: Some(version.into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec { holder_identity: Some(holder.into()), ..LeaseSpec::default() }),
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_was_not_renewed_for_its_length() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seen.look(&lease("other", "1"), "me", at(0)), Look::Wait);
        assert_eq!(seen.look(&lease("other", "1"), "me", at(14)), Look::Wait);
        assert_eq!(seen.look(&lease("other", "2"), "me", at(20)), Look::Wait, "it was renewed");
        assert_eq!(seen.look(&lease("other", "2"), "me", at(35)), Look::Take);
    }

    #[test]
    fn ones_own_and_one_that_was_given_back_are_taken_at_once() {
        let mut seen = Seen::default();
        assert_eq!(seen.look(&lease("me", "1"), "me", Instant::now()), Look::Take);
        assert_eq!(seen.look(&lease("", "2"), "me", Instant::now()), Look::Take);
    }

    #[test]
    fn who_cannot_renew_ends_before_another_takes_over() {
        assert!(GIVE_UP + REQUEST < LENGTH);
    }
}
