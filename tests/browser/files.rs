//! The example site, served as any static host would, with the address of its cluster put in.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use counter_tests::programs::repository;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// What the example names as its cluster.
pub(crate) const CLUSTER: &str = "http://127.0.0.1:8080";

/// A static host; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Site {
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Site {
    /// Serves `examples/site`; where its documents name their cluster, they name `cluster`.
    ///
    /// # Errors
    /// When there is no port.
    pub(crate) async fn serve(cluster: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cluster = cluster.to_owned();
        let accepting = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let cluster = cluster.clone();
                let service = service_fn(move |request| std::future::ready(Ok::<_, Infallible>(file(&request, &cluster))));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { address, accepting })
    }

    /// The base of its URLs, which is also the origin of its documents.
    #[must_use]
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn file(request: &Request<Incoming>, cluster: &str) -> Response<Full<Bytes>> {
    let name = request.uri().path().trim_start_matches('/');
    let name = if name.is_empty() { "index.html" } else { name };
    let kind = match name.rsplit_once('.') {
        Some((_, "css")) => "text/css",
        Some((_, "js")) => "text/javascript",
        _ => "text/html; charset=utf-8",
    };
    let text = std::fs::read_to_string(repository("examples/site").join(name));
    let mut response = Response::new(Full::default());
    match text {
        Ok(text) => {
            *response.body_mut() = Full::from(text.replace(CLUSTER, cluster));
            response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
        }
        Err(_) => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}
