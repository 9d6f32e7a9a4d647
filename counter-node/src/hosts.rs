//! Names to addresses: a hosts file first, where one is given, then the system's resolver. The seam that lets tests run
//! a cluster without DNS.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;

/// Resolves host names for outgoing connections.
#[derive(Clone, Debug)]
pub struct Hosts {
    file: Option<Arc<HostsFile>>,
    system: GaiResolver,
}

#[derive(Debug)]
struct HostsFile {
    path: PathBuf,
    read: Mutex<(Option<SystemTime>, HashMap<String, IpAddr>)>,
}

impl Hosts {
    /// A resolver that consults `file`, in the form of `/etc/hosts`, before the system.
    #[must_use]
    pub fn new(file: Option<&Path>) -> Self {
        let read = Mutex::new((None, HashMap::new()));
        let file = file.map(|path| Arc::new(HostsFile { path: path.to_owned(), read }));
        Self { file, system: GaiResolver::new() }
    }
}

impl HostsFile {
    /// The file's word on `name`; a file that has changed is read again.
    fn look_up(&self, name: &str) -> Option<IpAddr> {
        let modified = std::fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.0 != modified || modified.is_none() {
            *read = (modified, std::fs::read_to_string(&self.path).map(|text| parse(&text)).unwrap_or_default());
        }
        read.1.get(name.trim_end_matches('.')).copied()
    }
}

/// Lines of `ADDRESS NAME…`; what follows a `#` is a comment, and a line without a valid address is skipped.
fn parse(text: &str) -> HashMap<String, IpAddr> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_ascii_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        names.extend(words.map(|name| (name.trim_end_matches('.').to_owned(), address)));
    }
    names
}

impl Service<Name> for Hosts {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let mut this = self.clone();
        Box::pin(async move {
            if let Some(address) = this.file.as_ref().and_then(|file| file.look_up(name.as_str())) {
                return Ok(vec![SocketAddr::new(address, 0)].into_iter());
            }
            let found = this.system.call(name).await?;
            Ok(found.collect::<Vec<_>>().into_iter())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hosts_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hosts");
        let file = HostsFile { path: path.clone(), read: Mutex::new((None, HashMap::new())) };
        assert_eq!(file.look_up("a"), None);
        std::fs::write(&path, "# none\n127.0.0.9 a a.nodes.default.svc # b\nbad b\n").unwrap();
        assert_eq!(file.look_up("a.nodes.default.svc."), Some("127.0.0.9".parse().unwrap()));
        assert_eq!(file.look_up("b"), None);
    }
}
