//! What a change costs on its way to those who look at a page: one message to each node where someone does and one text there, however
//! many they are.

use counter_tests::http::Http;
use counter_tests::live::{Events, Follower, figures, nothing_left};
use counter_tests::node::{Cluster, TestNode};
use counter_tests::wait::until;
use hyper::{Method, StatusCode};
use serde_json::json;

/// Changes that are counted for each audience.
const CHANGES: usize = 10;

/// Someone who looks at a page, by either way.
enum Viewer {
    Socket(Follower),
    Stream(Events),
}

impl Viewer {
    async fn open(base: &str, page: &str, number: usize) -> anyhow::Result<Self> {
        let path = format!("/{page}/live");
        Ok(if number.is_multiple_of(2) {
            Self::Socket(Follower::open(base, &path).await?)
        } else {
            Self::Stream(Events::open(base, &path, &[]).await?)
        })
    }

    async fn until(&mut self, page: &str, count: i64) -> anyhow::Result<()> {
        match self {
            Self::Socket(follower) => drop(follower.until(page, count).await?),
            Self::Stream(events) => while events.count().await?.0 != count {},
        }
        Ok(())
    }
}

/// What the nodes say that they have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Done {
    /// Counts that the owner has sent to other nodes.
    sent: u64,
    /// Counts that the gateway, and the other node, have received.
    received: [u64; 2],
    /// Texts that owner, gateway and the other node have made of counts.
    written: [u64; 3],
}

impl Done {
    async fn by([owner, gateway, other]: [&TestNode; 3]) -> anyhow::Result<Self> {
        let [owner, gateway, other] = [figures(owner).await?, figures(gateway).await?, figures(other).await?];
        let received = "feed_readings_total{direction=\"received\"}";
        Ok(Self {
            sent: owner["feed_readings_total{direction=\"sent\"}"],
            received: [gateway[received], other[received]],
            written: [&owner, &gateway, &other].map(|figures| figures["counts_written_total"]),
        })
    }

    fn since(self, before: Self) -> Self {
        let [gateway, other] = self.received;
        let [of_owner, of_gateway, of_other] = self.written;
        Self {
            sent: self.sent - before.sent,
            received: [gateway - before.received[0], other - before.received[1]],
            written: [of_owner - before.written[0], of_gateway - before.written[1], of_other - before.written[2]],
        }
    }
}

/// Counts a page up by one; what it counts then.
async fn count_up(http: &Http, node: &TestNode, page: &str) -> anyhow::Result<i64> {
    let url = format!("{}/{page}/counter", node.http());
    let updated = http.send(Method::PUT, &url, None).await?.json_of(StatusCode::OK)?;
    Ok(updated["count"].as_i64().unwrap())
}

/// Waits until the page's owner knows of so many viewers.
async fn has_viewers(http: &Http, owner: &TestNode, page: &str, viewers: usize) -> anyhow::Result<()> {
    until("the owner knows who looks", async || {
        let detail = http.get_json(&format!("{}/{page}/counter?detail=true", owner.http())).await?;
        anyhow::ensure!(detail["viewers"] == json!(viewers), "{viewers} viewers: {detail}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_change_is_one_message_and_one_text_for_each_node_that_has_viewers_however_many() -> anyhow::Result<()> {
    // Nobody is to be pinged meanwhile.
    let cluster = Cluster::start(3, 1, &["--presence-heartbeat", "600"]).await?;
    let [gateway, owner, other] = [&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]];
    let http = Http::default();
    let page = cluster.page_of(1)?;
    // The other node is sent counts by the same owner, of a page beside. What would be sent there of the first page, which changes
    // before, would have come when the second one's change has.
    let beside = cluster.pages_of(1).find(|beside| *beside != page).unwrap();
    let mut beside_viewer = Viewer::open(&other.http(), &beside, 0).await?;
    beside_viewer.until(&beside, 1).await?;
    for audience in [0, 1, 200] {
        let mut viewers = Vec::new();
        for number in 0..audience {
            viewers.push(Viewer::open(&gateway.http(), &page, number).await?);
        }
        has_viewers(&http, owner, &page, audience).await?;
        let mut costs = Vec::new();
        // With the first change comes what is still to be said of who has come.
        for change in 0..=CHANGES {
            let before = Done::by([owner, gateway, other]).await?;
            let count = count_up(&http, owner, &page).await?;
            for viewer in &mut viewers {
                viewer.until(&page, count).await?;
            }
            let count = count_up(&http, owner, &beside).await?;
            beside_viewer.until(&beside, count).await?;
            if change > 0 {
                costs.push(Done::by([owner, gateway, other]).await?.since(before));
            }
        }
        let there = u64::from(audience > 0);
        let expected = Done { sent: there + 1, received: [there, 1], written: [0, there, 1] };
        assert!(costs.iter().all(|cost| cost.written == expected.written), "{audience} viewers, one text: {costs:#?}");
        // What is not acknowledged within half a second is said again, which a busy machine makes happen now and then.
        let exact = costs.iter().filter(|cost| **cost == expected).count();
        assert!(exact > CHANGES / 2, "{audience} viewers, one message: {costs:#?}");
        drop(viewers);
        nothing_left(gateway).await?;
        has_viewers(&http, owner, &page, 0).await?;
    }
    Ok(())
}
