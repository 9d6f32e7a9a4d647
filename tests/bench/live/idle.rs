//! What a viewer takes that is only there.

use std::time::Duration;

use super::viewer::Viewer;
use super::{on_second_core, start};
use crate::Args;
use crate::figures::Figures;
use crate::server::{Running, Server};

/// Between so many viewers the slope is taken, so that what a server has anyhow does not count.
const FEWER: usize = 5_000;
const ALL: usize = 15_000;
/// Each has been pinged once then, and what opening them took has been given back.
const SETTLE: Duration = Duration::from_secs(12);
/// Over so long the processor time of viewers at rest is taken.
const REST: Duration = Duration::from_secs(10);

/// Opens viewers of so many pages, and leaves them alone.
pub(crate) fn idle(args: &Args, server: Server, pages: usize) -> anyhow::Result<Figures> {
    let running = start(args, server)?;
    on_second_core(measure(&running, pages))
}

async fn measure(server: &Running, pages: usize) -> anyhow::Result<Figures> {
    let mut viewers = tokio::task::JoinSet::new();
    let mut resident = [0.0; 2];
    for (resident, until) in resident.iter_mut().zip([FEWER, ALL]) {
        while viewers.len() < until {
            let number = viewers.len();
            let viewer = Viewer::open(server.http, &format!("/page-{}/live", number % pages), number).await?;
            viewers.spawn(viewer.stay());
        }
        tokio::time::sleep(SETTLE).await;
        *resident = server.resident()?;
    }
    let before = server.cpu()?;
    tokio::time::sleep(REST).await;
    let rest = server.cpu()?.saturating_sub(before);
    if let Some(ended) = viewers.try_join_next() {
        ended??;
    }
    let slope = (resident[1] - resident[0]) / f64::from(u32::try_from(ALL - FEWER)?);
    Ok(Figures { bytes_per_viewer: Some(slope), rest_ms: Some(rest.as_secs_f64() * 1e3), ..Figures::default() })
}
