//! What is said of a cluster: worked out from the plan, and written only where it says something new.
//!
//! *Serving* and *progressing* are apart: `Available` stays True through rollouts and moves. Whenever it is not True, one of
//! `Reconciling` and `Stalled` is, so that tools which know only these conditions never take a cluster for finished.

use std::time::{Duration, Instant};

use counter_core::layout::MovePhase;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde_json::json;

use super::apply::FIELD_MANAGER;
use super::build;
use super::plan::{MoveSummary, Notice, Plan, Summary};
use super::validate::{ClusterSpec, Violation};
use crate::crd::{DistributedCounter, DistributedCounterStatus, MoveProgress};

use condition::{AVAILABLE, Claim, RECONCILING, SCALE_DOWN_BLOCKED, STALLED, UPDATE_PENDING, condition};

pub mod condition;

/// Progress alone is written no more often than this: each write wakes everybody who watches the object.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);
/// The port of the Service for clients.
const HTTP_PORT: u16 = 8080;

/// Why the status could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    #[error("the status could not be written")]
    Write(#[source] Box<kube::Error>),
}

impl StatusError {
    /// A bounded name for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Write(source) => super::api_category(source),
        }
    }
}

/// What a pass has to say.
#[derive(Debug)]
pub enum Finding<'a> {
    /// Something needs a person before anything can be planned; the recorded layout was published, and nothing else done.
    Held { spec: &'a ClusterSpec, plan: &'a Plan },
    /// What was planned, and what kept it from being done, if something did: what a person has to do something about, and
    /// what is tried again. `refused`: a disruption budget forbids the planned eviction.
    Planned { spec: &'a ClusterSpec, plan: &'a Plan, stalled: Option<Notice>, failing: Option<String>, refused: bool },
}

/// The status after a pass, from the one before it.
#[must_use]
pub fn status(
    before: &DistributedCounterStatus,
    generation: Option<i64>,
    finding: &Finding<'_>,
    now: Timestamp,
) -> DistributedCounterStatus {
    let (Finding::Held { spec, plan } | Finding::Planned { spec, plan, .. }) = finding;
    let mut next = figures(spec, &plan.summary);
    next.observed_generation = generation;
    let claims = match finding {
        Finding::Held { plan, .. } => held(before, plan),
        Finding::Planned { plan, stalled, failing, refused, .. } => planned(plan, stalled.as_ref(), failing.as_deref(), *refused),
    };
    next.conditions = claims.iter().map(|(kind, claim)| condition(&before.conditions, kind, claim, generation, now)).collect();
    next
}

fn figures(spec: &ClusterSpec, summary: &Summary) -> DistributedCounterStatus {
    let identity = &spec.identity;
    DistributedCounterStatus {
        observed_generation: None,
        conditions: Vec::new(),
        shards: Some(i32::from(summary.shards)),
        ready_shards: Some(i32::from(summary.ready_shards)),
        nodes: Some(i32::from(summary.nodes)),
        ready_nodes: Some(i32::from(summary.ready_nodes)),
        layout_version: summary.layout_version.map(|version| i64::try_from(version).unwrap_or(i64::MAX)),
        endpoint: Some(format!("http://{}.{}.svc:{HTTP_PORT}", identity.name, identity.namespace)),
        slot_move: summary.slot_move.as_ref().map(progress),
        selector: Some(build::selector_of_shards(identity)),
    }
}

fn progress(slot_move: &MoveSummary) -> MoveProgress {
    MoveProgress {
        from: i32::from(slot_move.from.0),
        to: i32::from(slot_move.to.0),
        slots_left: slot_move.slots_left.map(|slots| i64::try_from(slots).unwrap_or(i64::MAX)),
        receipt: slot_move.phase == MovePhase::Flipped,
    }
}

type Claims = [(&'static str, Claim); 5];

fn planned(plan: &Plan, stalled: Option<&Notice>, failing: Option<&str>, refused: bool) -> Claims {
    let stalled = stalled.or(plan.stalled.as_ref());
    let available = available(&plan.summary);
    let reconciling = match (&plan.progress, stalled) {
        (_, Some(_)) => Claim::no("Stalled", "waits for what Stalled says"),
        _ if failing.is_some() => Claim::yes("Failing", format!("{}; trying again", failing.unwrap_or_default())),
        // The reason stays, so that the usual short refusal after each replaced Pod makes no write of its own.
        (Some(notice), None) if refused => {
            Claim::yes(notice.reason, format!("{}; a disruption budget forbids it for now", notice.message))
        }
        (Some(notice), None) => said(notice),
        (None, None) if !available.holds => Claim::yes(available.reason.clone(), available.message.clone()),
        (None, None) if plan.paused => Claim::no("Paused", "spec.paused is set: nothing is changed"),
        (None, None) => Claim::no("Done", "all is as the spec says"),
    };
    [
        (AVAILABLE, available),
        (RECONCILING, reconciling),
        (STALLED, stalled.map_or_else(|| Claim::no("NotStalled", ""), said)),
        (SCALE_DOWN_BLOCKED, plan.blocked.as_ref().map_or_else(|| unblocked(plan), said)),
        (UPDATE_PENDING, plan.update_pending.as_ref().map_or_else(|| Claim::no("UpToDate", ""), said)),
    ]
}

fn unblocked(plan: &Plan) -> Claim {
    match &plan.verdict {
        Some(verdict) => Claim::no(verdict.reason, verdict.message.clone()),
        None => Claim::no("NotBlocked", ""),
    }
}

/// What is said when nothing could be planned: why, how the cluster is, and of the rest what was said before.
fn held(before: &DistributedCounterStatus, plan: &Plan) -> Claims {
    let kept = |kind: &'static str, unknown: &'static str| {
        let known = before.conditions.iter().find(|condition| condition.type_ == kind && condition.status == "True");
        known.map_or_else(
            || Claim::no(unknown, ""),
            |known| Claim { holds: true, reason: known.reason.clone(), message: known.message.clone() },
        )
    };
    [
        (AVAILABLE, available(&plan.summary)),
        (RECONCILING, Claim::no("Stalled", "waits for what Stalled says")),
        (STALLED, plan.stalled.as_ref().map_or_else(|| Claim::no("NotStalled", ""), said)),
        (SCALE_DOWN_BLOCKED, kept(SCALE_DOWN_BLOCKED, "NotBlocked")),
        (UPDATE_PENDING, kept(UPDATE_PENDING, "UpToDate")),
    ]
}

fn available(summary: &Summary) -> Claim {
    if summary.is_available() {
        return Claim::yes("Serving", "every slot has a ready owner");
    }
    if summary.layout_version.is_none() {
        return Claim::no("NoLayout", "no layout is recorded");
    }
    let shards: Vec<String> = summary.unserved.iter().map(ToString::to_string).collect();
    Claim::no("Unserved", format!("no node is ready of shard {}", shards.join(", ")))
}

fn said(notice: &Notice) -> Claim {
    Claim::yes(notice.reason, notice.message.clone())
}

/// What is said of an object that breaks rules.
#[must_use]
pub fn invalid(violations: &[Violation]) -> Notice {
    let said: Vec<String> = violations.iter().map(ToString::to_string).collect();
    Notice { reason: "InvalidSpec", message: said.join("; ") }
}

/// Whether `next` is to be written now.
#[must_use]
pub fn is_due(
    before: &DistributedCounterStatus,
    next: &DistributedCounterStatus,
    reported: Option<Instant>,
    now: Instant,
) -> bool {
    if before == next {
        return false;
    }
    let recently = reported.is_some_and(|at| now.saturating_duration_since(at) < PROGRESS_PERIOD);
    !(recently && without_progress(before) == without_progress(next))
}

/// A status without the figures that only say how far something is.
fn without_progress(status: &DistributedCounterStatus) -> DistributedCounterStatus {
    let mut rest = status.clone();
    if let Some(slot_move) = &mut rest.slot_move {
        slot_move.slots_left = None;
    }
    for condition in rest.conditions.iter_mut().filter(|condition| condition.type_ == RECONCILING) {
        condition.message.clear();
    }
    rest
}

/// Writes the status of this very object.
///
/// # Errors
/// When the API server refuses or does not answer.
pub async fn write(client: &Client, object: &DistributedCounter, status: &DistributedCounterStatus) -> Result<(), StatusError> {
    let namespace = object.namespace().unwrap_or_default();
    let body = json!({
        "apiVersion": DistributedCounter::api_version(&()),
        "kind": DistributedCounter::kind(&()),
        "metadata": {"name": object.name_any(), "namespace": namespace, "uid": object.uid()},
        "status": status,
    });
    let api: Api<DistributedCounter> = Api::namespaced(client.clone(), &namespace);
    let params = PatchParams::apply(FIELD_MANAGER).force();
    let written = api.patch_status(&object.name_any(), &params, &Patch::Apply(body)).await;
    written.map(drop).map_err(|source| StatusError::Write(Box::new(source)))
}

#[cfg(test)]
mod tests;
