//! A way between two stores that can be cut, and that can hold back what goes one way.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::select;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Forwards connections to an address, once it has one. Dropping it closes all of them.
pub(crate) struct Proxy {
    pub(crate) address: String,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    target: Option<SocketAddr>,
    is_cut: bool,
    /// Whether what the caller sends is held back.
    is_silent: bool,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = watch::Sender::new(State::default());
        let forwarding = forward_all(listener, state.subscribe());
        Self {
            address,
            state,
            _task: AbortOnDropHandle::new(tokio::spawn(forwarding)),
        }
    }

    /// Where new connections go.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.state.send_modify(|state| state.target = Some(target));
    }

    /// Closes all connections, and every new one at once.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.is_cut = true);
    }

    /// Holds back what the caller sends. What comes back still passes.
    pub(crate) fn silence(&self) {
        self.state.send_modify(|state| state.is_silent = true);
    }

    pub(crate) fn heal(&self) {
        self.state.send_modify(|state| {
            *state = State {
                target: state.target,
                ..State::default()
            };
        });
    }
}

async fn forward_all(listener: TcpListener, state: watch::Receiver<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (caller, _) = listener.accept().await.unwrap();
        while connections.try_join_next().is_some() {}
        connections.spawn(forward(caller, state.clone()));
    }
}

async fn forward(caller: TcpStream, mut state: watch::Receiver<State>) -> io::Result<()> {
    let State { target, is_cut, .. } = *state.borrow();
    let Some(target) = target.filter(|_| !is_cut) else {
        return Ok(());
    };
    let called = TcpStream::connect(target).await?;
    caller.set_nodelay(true)?;
    called.set_nodelay(true)?;
    let (from_caller, to_caller) = caller.into_split();
    let (from_called, to_called) = called.into_split();
    let requests = copy(from_caller, to_called, Some(state.clone()));
    let answers = copy(from_called, to_caller, None);
    let is_cut = async move { drop(state.wait_for(|state| state.is_cut).await) };
    select! {
        ended = async { tokio::try_join!(requests, answers) } => ended.map(drop),
        () = is_cut => Ok(()),
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: Option<watch::Receiver<State>>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let bytes = from.read(&mut buffer).await?;
        if bytes == 0 {
            return to.shutdown().await;
        }
        if let Some(state) = &mut state {
            let _ = state.wait_for(|state| !state.is_silent).await;
        }
        to.write_all(&buffer[..bytes]).await?;
    }
}
