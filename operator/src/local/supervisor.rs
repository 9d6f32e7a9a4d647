//! The loop of `operator local`: follows the file, looks after the processes, asks the nodes, plans, shows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::accept::{Accepted, accept};
use super::cluster::{Cluster, Host};
use super::document::{self, Reading, Secrets, key};
use super::folder::{FolderError, write_secret};
use super::follow::{self, Follow, Found};
use super::round::{self, Answer};
use super::screen::Screen;
use super::stop::Stop;
use super::view::View;
use super::{endpoints, log};
use crate::crd::DistributedCounter;
use crate::nodes::NodeClient;

/// How often processes and the file are looked at. An edit counts after it has stood still for one look.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// The time between two rounds while something is under way, so that a move's steps follow one another quickly.
const ROUND_PERIOD_BUSY: Duration = Duration::from_millis(300);
/// The time between two rounds while all is as it should be.
const ROUND_PERIOD_SETTLED: Duration = Duration::from_secs(2);
/// How often logs are held to their size.
const LOG_PERIOD: Duration = Duration::from_secs(30);

pub(super) struct Supervisor {
    file: PathBuf,
    follow: Follow,
    host: Host,
    client: NodeClient,
    screen: Screen,
    /// In the order of the file.
    clusters: Vec<Cluster>,
    /// Clusters that left the file, until their processes have ended.
    leaving: Vec<Cluster>,
    /// What was accepted last, by key.
    objects: BTreeMap<String, DistributedCounter>,
    file_errors: Vec<String>,
    shown_endpoints: Option<String>,
    round_due: Instant,
    logs_due: Instant,
}

/// What a supervisor is made of.
pub(super) struct Parts {
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) host: Host,
    pub(super) client: NodeClient,
    pub(super) screen: Screen,
}

/// Why a text was not taken over; nothing has changed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// What is wrong with it, a line each.
    Text(Vec<String>),
    Folder(FolderError),
}

impl Supervisor {
    /// A supervisor of no clusters yet.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { file, text, host, client, screen } = parts;
        let now = Instant::now();
        Self {
            file,
            follow: Follow::from(text),
            host,
            client,
            screen,
            clusters: Vec::new(),
            leaving: Vec::new(),
            objects: BTreeMap::new(),
            file_errors: Vec::new(),
            shown_endpoints: None,
            round_due: now,
            logs_due: now,
        }
    }

    /// Makes the clusters those of `text`: all of it or nothing.
    ///
    /// # Errors
    /// [`Refusal`], when the clusters are what they were.
    pub(super) fn take_over(&mut self, text: &str) -> Result<(), Refusal> {
        let accepted = self.accept_all(text)?;
        let mut opened = BTreeMap::new();
        for one in &accepted {
            let identity = &one.spec.identity;
            let folder = self.host.folder.cluster(&identity.namespace, &identity.name).map_err(Refusal::Folder)?;
            for (path, value) in [(folder.api_token_path(), &one.api_token), (folder.redis_url_path(), &one.redis_url)] {
                value.iter().try_for_each(|value| write_secret(&path, value)).map_err(Refusal::Folder)?;
            }
            if !self.clusters.iter().any(|cluster| cluster.key() == key(&one.object)) {
                let cluster = Cluster::open(&self.host, one.spec.clone()).map_err(Refusal::Folder)?;
                opened.insert(cluster.key(), cluster);
            }
        }
        let mut old = std::mem::take(&mut self.clusters);
        for Accepted { object, spec, api_token: _, redis_url: _ } in accepted {
            let key = key(&object);
            let known = old.iter().position(|cluster| cluster.key() == key).map(|index| old.remove(index));
            let Some(mut cluster) = opened.remove(&key).or(known) else { continue };
            cluster.set_spec(spec);
            if let Err(error) = cluster.folder().record_object(&object) {
                // The next start compares with an older state: stricter for nobody, and the data is not concerned.
                tracing::warn!(%error, "the accepted object was not recorded");
            }
            self.objects.insert(key, object);
            self.clusters.push(cluster);
        }
        self.dismiss(old);
        self.pass_all();
        Ok(())
    }

    /// Runs the clusters until `stop` is asked for, then stops them.
    pub(super) async fn run(mut self, mut stop: Stop) {
        let mut look = tokio::time::interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut under_way: Option<JoinHandle<Vec<Answer>>> = None;
        loop {
            tokio::select! {
                biased;
                () = stop.asked() => break,
                answers = finished(&mut under_way) => {
                    under_way = None;
                    self.hear(answers);
                }
                _ = look.tick() => self.look(),
            }
            if under_way.is_none() && self.round_due <= Instant::now() {
                let questions = self.clusters.iter().flat_map(Cluster::questions).collect();
                under_way = Some(tokio::spawn(round::ask_all(self.client.clone(), questions)));
            }
            self.show();
        }
        self.stop(&mut stop).await;
    }

    fn accept_all(&self, text: &str) -> Result<Vec<Accepted>, Refusal> {
        let Reading { objects, secrets, mut problems } = document::read(text);
        let mut accepted = Vec::new();
        for object in objects {
            let before = match self.objects.get(&key(&object)) {
                Some(before) => Some(before.clone()),
                None => self.recorded(&object, &secrets)?,
            };
            match accept(object, before.as_ref(), &secrets) {
                Ok(one) => accepted.push(one),
                Err(broken) => problems.extend(broken),
            }
        }
        if problems.is_empty() { Ok(accepted) } else { Err(Refusal::Text(problems)) }
    }

    /// What an earlier run accepted. An object whose name breaks the rules has no folder to look in.
    fn recorded(&self, object: &DistributedCounter, secrets: &Secrets) -> Result<Option<DistributedCounter>, Refusal> {
        match accept(object.clone(), None, secrets) {
            Ok(valid) => {
                let identity = valid.spec.identity;
                let folder = self.host.folder.cluster(&identity.namespace, &identity.name).map_err(Refusal::Folder)?;
                folder.object().map_err(Refusal::Folder)
            }
            Err(_) => Ok(None),
        }
    }

    fn dismiss(&mut self, gone: Vec<Cluster>) {
        for mut cluster in gone {
            cluster.stop(Instant::now());
            cluster.folder().forget_object();
            self.objects.remove(&cluster.key());
            self.leaving.push(cluster);
        }
    }

    fn look(&mut self) {
        if let Some(found) = self.follow.look(follow::read(&self.file)) {
            self.follow_edit(found);
        }
        let now = Instant::now();
        let mut changed = false;
        for cluster in self.clusters.iter_mut().chain(&mut self.leaving) {
            changed |= cluster.tend(now);
        }
        self.leaving.retain(|cluster| !cluster.is_down());
        if changed {
            self.round_due = now;
        }
        if self.logs_due <= now {
            self.logs_due = now + LOG_PERIOD;
            self.trim_logs();
        }
    }

    fn follow_edit(&mut self, found: Found) {
        self.file_errors = match found.map(|text| self.take_over(&text)) {
            Ok(Ok(())) => Vec::new(),
            Ok(Err(Refusal::Text(problems))) => problems,
            Ok(Err(Refusal::Folder(error))) => vec![format!("{:#}", anyhow::Error::new(error))],
            Err(unreadable) => vec![unreadable],
        };
        self.round_due = Instant::now();
    }

    fn hear(&mut self, answers: Vec<Answer>) {
        for answer in answers {
            if let Some(cluster) = self.clusters.iter_mut().find(|cluster| cluster.key() == answer.cluster) {
                cluster.hear(answer);
            }
        }
        self.pass_all();
        let settled = self.clusters.iter().all(Cluster::is_settled);
        self.round_due = Instant::now() + if settled { ROUND_PERIOD_SETTLED } else { ROUND_PERIOD_BUSY };
    }

    fn pass_all(&mut self) {
        let now = Instant::now();
        for cluster in &mut self.clusters {
            cluster.pass(&mut self.host, now);
        }
    }

    fn trim_logs(&self) {
        for path in self.clusters.iter().flat_map(Cluster::logs) {
            if let Err(error) = log::trim(&path) {
                tracing::warn!(%error, log = %path.display(), "a log is too large and could not be set aside");
            }
        }
    }

    fn view(&self) -> View {
        let gone = self.leaving.iter().filter(|cluster| !self.objects.contains_key(&cluster.key()));
        View { clusters: self.clusters.iter().chain(gone).map(Cluster::view).collect(), file_errors: self.file_errors.clone() }
    }

    fn show(&mut self) {
        let view = self.view();
        let text = endpoints::render(&view);
        if self.shown_endpoints.as_ref() != Some(&text) {
            match self.host.folder.show_endpoints(&text) {
                Ok(()) => self.shown_endpoints = Some(text),
                Err(error) => tracing::warn!(%error, "endpoints.json is out of date"),
            }
        }
        self.screen.show(&view);
    }

    /// Stops all processes: in order, or at once when asked a second time.
    async fn stop(mut self, stop: &mut Stop) {
        self.screen.say("Stopping the nodes; Ctrl-C once more ends them at once.");
        let mut all: Vec<Cluster> = self.clusters.drain(..).chain(self.leaving.drain(..)).collect();
        let now = Instant::now();
        all.iter_mut().for_each(|cluster| cluster.stop(now));
        let mut look = tokio::time::interval(LOOK_PERIOD / 5);
        while !all.iter().all(Cluster::is_down) {
            tokio::select! {
                biased;
                () = stop.asked() => all.iter_mut().for_each(Cluster::kill),
                _ = look.tick() => {
                    let now = Instant::now();
                    for cluster in &mut all {
                        cluster.tend(now);
                    }
                }
            }
        }
        // What nobody keeps up to date would mislead scripts.
        self.host.folder.hide_endpoints();
        self.screen.say("All nodes have stopped. The same command goes on from here.");
    }
}

/// The answers of the round that is under way; never ends while none is.
async fn finished(under_way: &mut Option<JoinHandle<Vec<Answer>>>) -> Vec<Answer> {
    match under_way {
        // A round that ended in a panic answers nothing; the next one asks again.
        Some(round) => round.await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
