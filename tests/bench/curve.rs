//! Throughput and latency against load: the same requests on more and more connections.

use serde::{Deserialize, Serialize};

use crate::Args;
use crate::figures::Figures;
use crate::load::Load;
use crate::load::redis_benchmark::Command;
use crate::load::wrk::Request;
use crate::report;
use crate::row::under;
use crate::server::{Aof, Server, Storage};

/// Connections of each point.
const CONNECTIONS: [usize; 6] = [1, 4, 16, 64, 256, 512];

/// One line of a plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Curve {
    pub(crate) name: String,
    /// Connections, and the medians there.
    pub(crate) points: Vec<(usize, Figures)>,
}

/// What a curve is of: its name, the server, and the load by connections.
type Subject = (&'static str, Server, Box<dyn Fn(usize) -> Load>);

/// Measures every curve, point by point in turn.
pub(crate) fn measure(args: &Args) -> anyhow::Result<Vec<Curve>> {
    let http = |request: Request| move |connections| Load::Http { request: request.clone(), connections };
    let incr = |clients| Load::Resp { command: Command::Incr, clients, pipeline: 1, keys: 1 };
    let volume = Server::Node(Storage::Volume("EverySecond"));
    let subjects: [Subject; 5] = [
        ("GET, node", volume, Box::new(http(Request::Get))),
        ("PUT, node, EverySecond", volume, Box::new(http(Request::Put))),
        ("PUT, bare hyper", Server::BareHyper, Box::new(http(Request::Put))),
        ("INCR, node, EverySecond", volume, Box::new(incr)),
        ("INCR, Redis, everysec", Server::Redis(Aof::EverySecond), Box::new(incr)),
    ];
    let mut curves: Vec<Curve> =
        subjects.iter().map(|(name, ..)| Curve { name: (*name).to_owned(), points: Vec::new() }).collect();
    for connections in CONNECTIONS {
        let mut measured = vec![Vec::new(); subjects.len()];
        for _ in 0..args.rounds {
            for ((_, server, load), all) in subjects.iter().zip(&mut measured) {
                all.push(under(args, &server.start(args)?, &load(connections))?);
            }
        }
        for (curve, all) in curves.iter_mut().zip(measured) {
            let figures = Figures::medians(&all);
            report::line(&format!("curve  {:<28} {connections:>4} connections {figures}", curve.name));
            curve.points.push((connections, figures));
        }
    }
    Ok(curves)
}
