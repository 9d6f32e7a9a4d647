//! What a seed's world is like, and what goes wrong in it.

use counter_seeds::Rng;

/// The layout of a world and its faults.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) shards: u16,
    pub(crate) replicas: u16,
    /// When all faults end.
    pub(crate) heal_ms: u64,
    /// Chances per mille, per message.
    pub(crate) loss: u64,
    pub(crate) repeat: u64,
    pub(crate) slow: u64,
    /// How long a layout is on its way to a node, at most.
    pub(crate) layout_ms_max: u64,
    /// Small, so that changes go out in parts.
    pub(crate) message_bytes_max: usize,
    pub(crate) absent_max: usize,
    /// Small, so that leases end in parts.
    pub(crate) ended_max: usize,
    pub(crate) faults: Vec<(u64, Fault)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The process is killed, and starts again after a while.
    Crash { node: usize, down_ms: u64 },
    /// It says farewell first.
    Stop { node: usize, down_ms: u64 },
    /// It stands still.
    Stall { node: usize, ms: u64 },
    /// Nothing goes from the one to the other.
    Cut { from: usize, to: usize, ms: u64 },
    /// Nor back.
    CutBoth { one: usize, other: usize, ms: u64 },
    /// Its wall clock is set.
    Clock { node: usize, ahead_ms: i64 },
}

impl Plan {
    pub(crate) fn of(rng: &mut Rng) -> Self {
        let (shards, replicas) = *rng.pick(&[(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]);
        let heal_ms = rng.range(6_000, 16_000);
        let nodes = usize::from(shards * replicas);
        let count = rng.range(1, 8);
        let is_lossy = rng.per_mille(400);
        let faults = (0..count).map(|_| (rng.range(500, heal_ms - 500), Self::fault(rng, nodes))).collect();
        Self {
            shards,
            replicas,
            heal_ms,
            loss: if is_lossy { rng.range(10, 300) } else { 0 },
            repeat: if rng.per_mille(500) { 100 } else { 0 },
            slow: if rng.per_mille(300) { 50 } else { 0 },
            layout_ms_max: *rng.pick(&[50, 1_000, 4_000]),
            message_bytes_max: *rng.pick(&[120, 400, 256 << 10]),
            absent_max: *rng.pick(&[0, 4, 4_096]),
            // Of nothing random, so that seeds stay what they were.
            ended_max: [4_096, 1, 2][usize::try_from(heal_ms % 3).unwrap()],
            faults,
        }
    }

    fn fault(rng: &mut Rng, nodes: usize) -> Fault {
        let (node, other) = (rng.index(nodes), rng.index(nodes));
        let ms = if rng.per_mille(500) { rng.range(50, 2_500) } else { rng.range(2_500, 9_000) };
        match rng.below(10) {
            0..3 => Fault::Crash { node, down_ms: rng.range(50, 7_000) },
            3 => Fault::Stop { node, down_ms: rng.range(50, 3_000) },
            4 => Fault::Stall { node, ms },
            5..7 => Fault::Cut { from: node, to: other, ms },
            7..9 => Fault::CutBoth { one: node, other, ms },
            _ => Fault::Clock { node, ahead_ms: *rng.pick(&[-3_600_000, -700, 800, 30_000]) },
        }
    }
}
