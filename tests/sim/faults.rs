//! What goes wrong, and what operators do: a plan made from the seed before anything runs.

use counter_core::id::ShardId;

use crate::operator::Transfer;
use counter_seeds::Rng;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fsync {
    Always,
    EverySecond,
    Never,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// `kill -9`; it is started again after so many milliseconds.
    Kill {
        node: usize,
        down_ms: u64,
    },
    /// A clean stop, and a start.
    Stop {
        node: usize,
        down_ms: u64,
    },
    PowerLoss {
        node: usize,
        down_ms: u64,
    },
    PowerLossEverywhere,
    /// Nothing gets from the one to the other.
    Cut {
        from: usize,
        to: usize,
    },
    CutBothWays {
        one: usize,
        other: usize,
    },
    /// No cut any more.
    Join,
    Network {
        loss: u64,
        repeat: u64,
        delay_ms_max: u64,
    },
    Clock {
        node: usize,
        offset_ms: i64,
    },
    StorageFails {
        node: usize,
        for_ms: u64,
    },
    StorageWorks {
        node: usize,
    },
    Shards(u16),
    Replicas(u16),
    Transfer(Transfer),
    /// So many virtual shards of the page that has them take updates from now on; none for its own key.
    Spread(u16),
    TakeSnapshot {
        node: usize,
    },
    /// The node's volume goes back to its snapshot.
    RestoreSnapshot {
        node: usize,
    },
    /// A node that has not started yet gets a copy of this node's volume.
    Clone {
        node: usize,
    },
    /// The latest process of the node, as of now, goes on greeting its peers from elsewhere for so long.
    Ghost {
        node: usize,
        for_ms: u64,
    },
}

/// What one simulation is like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) shards: u16,
    pub(crate) replicas: u16,
    pub(crate) fsync: Fsync,
    pub(crate) quorum: bool,
    pub(crate) client_ms: u64,
    /// As often something is modified, subscribed to or read.
    pub(crate) user_ms: u64,
    pub(crate) faults: Vec<(u64, Fault)>,
    pub(crate) faults_end_ms: u64,
    /// Restarts keep to kills, and volumes stay where they are.
    pub(crate) losses: bool,
    /// Whether clients give their updates tokens, and send them again under these.
    pub(crate) tokens: bool,
    /// How much later copies of updates under tokens may come.
    pub(crate) copy_ms_max: u64,
    /// So many of the keys, the last ones, are reset.
    pub(crate) keys_reset: usize,
    /// Half of the writes take long.
    pub(crate) slow_writes: bool,
    /// Users are followed live.
    pub(crate) followers: bool,
}

/// The most virtual shards that the page with virtual shards gets.
pub(crate) const SUB_KEYS: u16 = 4;

/// Beyond it, in most plans, no copy of an update comes.
pub(crate) const COPY_MS_MAX: u64 = 3_000;

impl Plan {
    pub(crate) fn of(rng: &mut Rng) -> Self {
        let mut plan = Self {
            shards: u16::try_from(rng.range(1, 2)).unwrap(),
            replicas: u16::try_from(rng.range(1, 3)).unwrap(),
            fsync: *rng.pick(&[Fsync::Always, Fsync::EverySecond, Fsync::EverySecond, Fsync::Never]),
            quorum: rng.per_mille(250),
            client_ms: rng.range(20, 100),
            user_ms: 200,
            faults: Vec::new(),
            faults_end_ms: rng.range(8_000, 16_000),
            losses: rng.per_mille(500),
            tokens: rng.per_mille(500),
            copy_ms_max: COPY_MS_MAX,
            keys_reset: 1,
            slow_writes: false,
            followers: false,
        };
        for _ in 0..rng.below(4) {
            let count = u16::try_from(rng.range(0, u64::from(SUB_KEYS))).unwrap();
            plan.faults.push((rng.range(500, plan.faults_end_ms), Fault::Spread(count)));
        }
        let kinds: Vec<u64> = (0..16).filter(|_| rng.per_mille(500)).collect();
        for _ in 0..rng.range(3, 20) {
            let Some(kind) = (!kinds.is_empty()).then(|| *rng.pick(&kinds)) else { break };
            let at_ms = rng.range(1_500, plan.faults_end_ms);
            plan.add(rng, at_ms, kind);
        }
        plan
    }

    /// A short one in which users are followed, and little else is done.
    pub(crate) fn with_followers(rng: &mut Rng) -> Self {
        let mut plan = Self::of(rng);
        // Two shards are enough for users and pages that live apart, and for slots that move.
        for (at_ms, fault) in &mut plan.faults {
            *at_ms /= 3;
            if let Fault::Shards(shards) = fault {
                *shards = 2;
            }
        }
        plan.faults_end_ms /= 3;
        // It takes long until tokens are forgotten.
        let tokens = plan.tokens && rng.per_mille(500);
        Self { client_ms: 1_000, user_ms: rng.range(15, 100), tokens, followers: true, ..plan }
    }

    fn add(&mut self, rng: &mut Rng, at_ms: u64, kind: u64) {
        let node = rng.index(12);
        let other = rng.index(12);
        let down_ms = rng.range(50, 3_000);
        let fault = match kind {
            0 | 1 => Fault::Kill { node, down_ms },
            2 => Fault::Stop { node, down_ms },
            3 if self.losses => Fault::PowerLoss { node, down_ms },
            4 if self.losses && rng.per_mille(300) => Fault::PowerLossEverywhere,
            5 => Fault::Cut { from: node, to: other },
            6 => Fault::CutBothWays { one: node, other },
            7 => Fault::Network { loss: rng.below(300), repeat: rng.below(200), delay_ms_max: rng.range(1, 600) },
            8 => Fault::Clock { node, offset_ms: i64::try_from(rng.below(60_000)).unwrap() - 30_000 },
            9 => Fault::StorageFails { node, for_ms: down_ms },
            10 | 11 => Fault::Shards(u16::try_from(rng.range(1, 4)).unwrap()),
            12 => Fault::Replicas(u16::try_from(rng.range(1, 3)).unwrap()),
            13 | 14 => Fault::Transfer(Transfer {
                from: ShardId(u16::try_from(rng.below(3)).unwrap()),
                to: ShardId(u16::try_from(rng.below(3)).unwrap()),
                slots: u16::try_from(rng.range(1, 9_000)).unwrap(),
            }),
            15 if self.losses => Fault::TakeSnapshot { node },
            _ => Fault::Clone { node },
        };
        self.faults.push((at_ms, fault));
        match fault {
            Fault::Cut { .. } | Fault::CutBothWays { .. } => self.faults.push((at_ms + down_ms, Fault::Join)),
            Fault::TakeSnapshot { node } => self.faults.push((at_ms + down_ms, Fault::RestoreSnapshot { node })),
            Fault::Network { .. } => {
                self.faults.push((at_ms + down_ms, Fault::Network { loss: 0, repeat: 0, delay_ms_max: 5 }));
            }
            _ => {}
        }
    }
}
