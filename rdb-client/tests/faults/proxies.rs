//! Links between stores that go through proxies: for links that are slow, and for partitions where there are no network
//! namespaces.
//!
//! Each store names its proxy as its address, to other stores and to clients alike. A proxy looks up which process has called
//! it. What clients and stores send each other is passed on always.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::Port;

/// How long a slow link takes for at most [`CHUNK_BYTES`].
const DELAY: Duration = Duration::from_millis(60);
const CHUNK_BYTES: usize = 4096;

/// What becomes of what one store sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Open,
    /// It waits until the line is open again, as what TCP sends again and again.
    Cut,
    Slow,
}

/// A proxy in front of each store.
pub(crate) struct Proxies {
    ports: Vec<Port>,
    lines: Arc<Lines>,
    _serving: Vec<AbortOnDropHandle<()>>,
}

struct Lines {
    /// The data directory of each store, by which its process is known.
    data_dirs: Vec<PathBuf>,
    /// By the number of the sender and of the receiver.
    between: Vec<Vec<watch::Sender<Line>>>,
    delayed: AtomicU64,
}

impl Proxies {
    /// Proxies in front of stores that have these data directories and will listen on these addresses.
    pub(crate) async fn open(stores: &[(PathBuf, String)]) -> Self {
        let open = || watch::Sender::new(Line::Open);
        let between = stores
            .iter()
            .map(|_| stores.iter().map(|_| open()).collect());
        let lines = Arc::new(Lines {
            data_dirs: stores
                .iter()
                .map(|(data_dir, _)| data_dir.clone())
                .collect(),
            between: between.collect(),
            delayed: AtomicU64::new(0),
        });
        let (mut ports, mut serving) = (Vec::new(), Vec::new());
        for (to, (_, target)) in stores.iter().enumerate() {
            let port = Port::reserve();
            let listener = TcpListener::bind(("127.0.0.1", port.number())).await;
            let serves = serve(
                listener.expect("it is reserved"),
                to,
                target.clone(),
                Arc::clone(&lines),
            );
            serving.push(AbortOnDropHandle::new(tokio::spawn(serves)));
            ports.push(port);
        }
        Self {
            ports,
            lines,
            _serving: serving,
        }
    }

    /// Where a store is reached.
    pub(crate) fn address(&self, store: usize) -> String {
        format!("127.0.0.1:{}", self.ports[store].number())
    }

    pub(crate) fn set(&self, from: usize, to: usize, line: Line) {
        self.lines.between[from][to].send_replace(line);
    }

    pub(crate) fn open_all(&self) {
        for line in self.lines.between.iter().flatten() {
            line.send_replace(Line::Open);
        }
    }

    /// How often something was passed on late.
    pub(crate) fn delayed(&self) -> u64 {
        self.lines.delayed.load(Ordering::Relaxed)
    }
}

/// Connections end with it.
async fn serve(listener: TcpListener, to: usize, target: String, lines: Arc<Lines>) {
    let mut connections = JoinSet::new();
    while let Ok((caller, address)) = listener.accept().await {
        let from = lines.store_at(address);
        connections.spawn(forward(
            caller,
            target.clone(),
            from,
            to,
            Arc::clone(&lines),
        ));
        while connections.try_join_next().is_some() {}
    }
}

async fn forward(
    caller: TcpStream,
    target: String,
    from: Option<usize>,
    to: usize,
    lines: Arc<Lines>,
) -> io::Result<()> {
    // A handshake needs both directions.
    lines.wait_while_cut(from, Some(to)).await;
    lines.wait_while_cut(Some(to), from).await;
    let target = TcpStream::connect(target).await?;
    target.set_nodelay(true)?;
    caller.set_nodelay(true)?;
    let ((from_caller, to_caller), (from_target, to_target)) =
        (caller.into_split(), target.into_split());
    tokio::try_join!(
        lines.pass_on(from_caller, to_target, from, Some(to)),
        lines.pass_on(from_target, to_caller, Some(to), from),
    )?;
    Ok(())
}

impl Lines {
    /// `None`: a client.
    fn line(&self, from: Option<usize>, to: Option<usize>) -> Option<watch::Receiver<Line>> {
        Some(self.between[from?][to?].subscribe())
    }

    async fn wait_while_cut(&self, from: Option<usize>, to: Option<usize>) {
        if let Some(mut line) = self.line(from, to) {
            let open = line.wait_for(|line| *line != Line::Cut).await;
            open.expect("the senders are here");
        }
    }

    async fn pass_on(
        &self,
        mut reader: OwnedReadHalf,
        mut writer: OwnedWriteHalf,
        from: Option<usize>,
        to: Option<usize>,
    ) -> io::Result<()> {
        let line = self.line(from, to);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let read = reader.read(&mut buffer).await;
            // The end of a connection waits, too.
            self.wait_while_cut(from, to).await;
            if line
                .as_ref()
                .is_some_and(|line| *line.borrow() == Line::Slow)
            {
                self.delayed.fetch_add(1, Ordering::Relaxed);
                sleep(DELAY).await;
            }
            match read? {
                0 => return writer.shutdown().await,
                length => writer.write_all(&buffer[..length]).await?,
            }
        }
    }

    /// The store whose process has the socket with this local address.
    fn store_at(&self, address: SocketAddr) -> Option<usize> {
        let inode = inode(address)?;
        let children = fs::read_dir("/proc/self/task").ok()?.flatten();
        let children =
            children.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        children
            .flat_map(|pids| {
                pids.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .find_map(|pid| self.store_of(Path::new("/proc").join(pid), &inode))
    }

    fn store_of(&self, process: PathBuf, inode: &str) -> Option<usize> {
        let arguments = fs::read(process.join("cmdline")).ok()?;
        let is_argument = |data_dir: &PathBuf| {
            let mut arguments = arguments.split(|&byte| byte == 0);
            arguments.any(|argument| argument == data_dir.as_os_str().as_encoded_bytes())
        };
        let store = self.data_dirs.iter().position(is_argument)?;
        let socket = PathBuf::from(format!("socket:[{inode}]"));
        let mut files = fs::read_dir(process.join("fd")).ok()?.flatten();
        let has_socket =
            files.any(|file| fs::read_link(file.path()).is_ok_and(|link| link == socket));
        has_socket.then_some(store)
    }
}

/// The inode of the socket with this local address, by Linux's table of connections over IPv4.
fn inode(address: SocketAddr) -> Option<String> {
    let SocketAddr::V4(address) = address else {
        return None;
    };
    let ip = u32::from_ne_bytes(address.ip().octets());
    let local = format!("{ip:08X}:{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    table.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        (words.get(1) == Some(&local.as_str()))
            .then(|| words.get(9).map(|&inode| inode.to_owned()))?
    })
}
