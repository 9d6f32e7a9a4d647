//! Leader election by a `Lease`: at most one operator acts, and one that cannot renew stops itself before another may start.
//!
//! Every change of the Lease is a compare-and-swap on its `resourceVersion`, so two candidates cannot both win. Whether
//! a holder is dead is judged by this process's monotonic time since the record last *changed*; clocks of different
//! machines are never compared. A leader that could not renew for `renew_deadline`, which is shorter than the Lease's
//! duration, is no leader any more: its [`Fence`] closes by itself, and the process ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::args::ElectionArgs;

/// The times of an election; `retry_period < renew_deadline < lease_duration`, which [`crate::args`] has checked.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub lease_duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl From<&ElectionArgs> for Timing {
    fn from(args: &ElectionArgs) -> Self {
        Self { lease_duration: args.lease_duration, renew_deadline: args.renew_deadline, retry_period: args.retry_period }
    }
}

/// Until when this process may write. Closed from the start, opened by each renewal, and closed by time alone.
#[derive(Debug, Clone, Default)]
pub struct Fence(Arc<Mutex<Until>>);

#[derive(Debug, Clone, Copy, Default)]
enum Until {
    #[default]
    Closed,
    Open(Instant),
    Forever,
}

impl Fence {
    /// For an operator that runs without election.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Until::Forever)))
    }

    /// Whether a write may leave at `now`.
    #[must_use]
    pub fn admits(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Closed => false,
            Until::Open(until) => now < until,
            Until::Forever => true,
        }
    }

    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }
}

/// Why a leader stopped being one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Lost {
    #[error("the Lease could not be renewed in time")]
    Expired,
    #[error("the Lease was taken by `{0}`")]
    Taken(String),
    #[error("the Lease was deleted or released by somebody else")]
    Gone,
}

/// Takes part in the election of one Lease.
pub struct Elector {
    api: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    fence: Fence,
}

/// A Lease that this process holds.
pub struct Leadership {
    elector: Elector,
    lease: Lease,
    /// When the last successful renewal was *sent*: whatever the API server took, others count from no earlier.
    renewed: Instant,
}

/// What a candidate has seen of the Lease, and since when it has looked like that.
#[derive(Debug)]
struct Sight {
    spec: Option<LeaseSpec>,
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Take,
    Wait,
}

impl Sight {
    /// Takes note of the Lease; only a change restarts the time.
    fn update(sight: Option<Self>, spec: Option<LeaseSpec>, now: Instant) -> Self {
        match sight {
            Some(known) if known.spec == spec => known,
            _ => Self { spec, since: now },
        }
    }

    /// A free Lease, an own one and one that nobody has renewed for its whole duration may be taken.
    fn decide(&self, identity: &str, timing: &Timing, now: Instant) -> Decision {
        let Some(spec) = &self.spec else { return Decision::Take };
        match holder(spec) {
            None => Decision::Take,
            Some(holder) if holder == identity => Decision::Take,
            Some(_) if now.saturating_duration_since(self.since) > duration(spec, timing) => Decision::Take,
            Some(_) => Decision::Wait,
        }
    }
}

fn holder(spec: &LeaseSpec) -> Option<&str> {
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// The duration that the holder promised, which may be of another configuration than ours.
fn duration(spec: &LeaseSpec, timing: &Timing) -> Duration {
    spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(timing.lease_duration, Duration::from_secs)
}

impl Elector {
    /// An elector for the Lease `name`; `identity` must be this process's alone, not its Pod's or host's.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String, timing: Timing, fence: Fence) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity, timing, fence }
    }

    /// Waits until this process leads. Failures of the API are logged and tried again.
    pub async fn acquire(self) -> Leadership {
        let mut sight = None;
        loop {
            match tokio::time::timeout(self.timing.renew_deadline, self.attempt(&mut sight)).await {
                Ok(Ok(Some((lease, renewed)))) => {
                    tracing::info!(identity = self.identity, lease = self.name, "leading");
                    self.fence.set(Until::Open(renewed + self.timing.renew_deadline));
                    return Leadership { elector: self, lease, renewed };
                }
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::warn!(%error, lease = self.name, "the Lease could not be read or taken"),
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer about the Lease"),
            }
            tokio::time::sleep(jittered(self.timing.retry_period)).await;
        }
    }

    async fn attempt(&self, sight: &mut Option<Sight>) -> Result<Option<(Lease, Instant)>, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        let seen = Sight::update(sight.take(), lease.as_ref().and_then(|lease| lease.spec.clone()), now);
        let decision = seen.decide(&self.identity, &self.timing, now);
        *sight = Some(seen);
        if decision == Decision::Wait {
            return Ok(None);
        }
        let written = match lease {
            Some(lease) => {
                let taken = Lease { spec: Some(self.claim(lease.spec.as_ref())), ..lease };
                self.api.replace(&self.name, &PostParams::default(), &taken).await
            }
            None => self.api.create(&PostParams::default(), &self.first()).await,
        };
        match written {
            Ok(lease) => Ok(Some((lease, now))),
            // Another candidate was quicker, or the holder is alive after all.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn first(&self) -> Lease {
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(self.claim(None)) }
    }

    fn claim(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let same_holder = before.and_then(holder) == Some(self.identity.as_str());
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        let seconds = self.timing.lease_duration.as_millis().div_ceil(1_000);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: before.filter(|_| same_holder).and_then(|spec| spec.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if same_holder || before.is_none() { transitions } else { transitions.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }
}

/// What became of one try to renew.
enum Renewal {
    Done(Lease),
    /// The record is still ours, under another resourceVersion: an earlier answer was lost.
    Reread(Lease),
}

impl Leadership {
    /// Renews the Lease until it is lost, and says why it was.
    pub async fn keep(&mut self) -> Lost {
        let timing = self.elector.timing;
        loop {
            tokio::time::sleep(timing.retry_period).await;
            let sent = Instant::now();
            let Some(left) = (self.renewed + timing.renew_deadline).checked_duration_since(sent) else {
                return self.lose(Lost::Expired);
            };
            let attempt = tokio::time::timeout(left.min(timing.retry_period * 2), self.renew()).await;
            match attempt {
                Ok(Ok(Renewal::Done(lease))) => {
                    self.lease = lease;
                    self.renewed = sent;
                    self.elector.fence.set(Until::Open(sent + timing.renew_deadline));
                }
                Ok(Ok(Renewal::Reread(lease))) => self.lease = lease,
                Ok(Err(RenewError::Lost(lost))) => return self.lose(lost),
                Ok(Err(RenewError::Api(error))) => tracing::warn!(%error, "the Lease could not be renewed, trying again"),
                Err(_) => tracing::warn!("the API server does not answer to a renewal of the Lease, trying again"),
            }
        }
    }

    async fn renew(&self) -> Result<Renewal, RenewError> {
        let elector = &self.elector;
        let renewed = Lease { spec: Some(elector.claim(self.lease.spec.as_ref())), ..self.lease.clone() };
        match elector.api.replace(&elector.name, &PostParams::default(), &renewed).await {
            Ok(lease) => return Ok(Renewal::Done(lease)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error.into()),
        }
        let lease = elector.api.get_opt(&elector.name).await?.ok_or(RenewError::Lost(Lost::Gone))?;
        match lease.spec.as_ref().and_then(holder) {
            Some(holder) if holder == elector.identity => Ok(Renewal::Reread(lease)),
            Some(other) => Err(RenewError::Lost(Lost::Taken(other.to_owned()))),
            None => Err(RenewError::Lost(Lost::Gone)),
        }
    }

    fn lose(&self, lost: Lost) -> Lost {
        self.elector.fence.set(Until::Closed);
        lost
    }

    /// Gives the Lease up, so that a successor need not wait for its end. Call it when all work has ended.
    pub async fn release(self) {
        self.elector.fence.set(Until::Closed);
        let spec = LeaseSpec { holder_identity: None, ..self.lease.spec.clone().unwrap_or_default() };
        let free = Lease { spec: Some(spec), ..self.lease };
        let elector = &self.elector;
        let params = PostParams::default();
        let released = elector.api.replace(&elector.name, &params, &free);
        match tokio::time::timeout(elector.timing.retry_period, released).await {
            Ok(Ok(_)) => tracing::info!("released the Lease"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease was not released, its successor waits for its end"),
            Err(_) => tracing::warn!("the Lease was not released in time, its successor waits for its end"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error(transparent)]
    Lost(Lost),
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Spreads candidates over time: between 0.8 and 1.2 of `time`.
fn jittered(time: Duration) -> Duration {
    time.mul_f64(rand::random_range(0.8..1.2))
}

#[cfg(test)]
mod tests;
