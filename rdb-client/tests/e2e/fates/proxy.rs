//! A TCP proxy that breaks connections on demand.

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::guarded;

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Passes them on.
    Pass,
    /// Closes each connection as soon as it is accepted.
    CloseAtAccept,
    /// Closes a connection when the client sends something, before passing it on.
    CutRequests,
    /// Passes on what the client sends and keeps what the server answers.
    HoldAnswers,
}

/// Listens on an address of its own in front of another. Everything ends with it.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: watch::Sender<SocketAddr>,
    mode: watch::Sender<Mode>,
    open: watch::Sender<usize>,
    /// Cancelled and replaced to cut all connections.
    lifeline: Mutex<CancellationToken>,
    listening: Mutex<Listening>,
}

enum Listening {
    Yes(JoinHandle<()>),
    /// The port is bound, so that nobody else gets it, but connecting to it is refused.
    No(TcpSocket),
    /// The proxy goes from one to the other.
    Moving,
}

impl Proxy {
    /// Starts without listening: connections are refused until [`Proxy::listen`].
    pub(crate) fn refusing(target: SocketAddr) -> Self {
        let socket = bound("127.0.0.1:0".parse().unwrap());
        Self {
            address: socket.local_addr().unwrap(),
            target: watch::Sender::new(target),
            mode: watch::Sender::new(Mode::Pass),
            open: watch::Sender::new(0),
            lifeline: Mutex::default(),
            listening: Mutex::new(Listening::No(socket)),
        }
    }

    pub(crate) fn start(target: SocketAddr) -> Self {
        let proxy = Self::refusing(target);
        proxy.listen();
        proxy
    }

    /// Listens again on the same address.
    pub(crate) fn listen(&self) {
        let mut listening = self.listening.lock().unwrap();
        if let Listening::No(socket) = std::mem::replace(&mut *listening, Listening::Moving) {
            let listener = socket.listen(1024).unwrap();
            let accepting = accept(
                listener,
                self.target.clone(),
                self.mode.clone(),
                self.open.clone(),
                self.lifeline.lock().unwrap().clone(),
            );
            *listening = Listening::Yes(tokio::spawn(accepting));
        }
    }

    /// Cuts every connection and refuses new ones.
    pub(crate) async fn refuse(&self) {
        let listening = std::mem::replace(&mut *self.listening.lock().unwrap(), Listening::Moving);
        let Listening::Yes(accepting) = listening else {
            panic!("it does not listen");
        };
        let socket = bound(self.address);
        accepting.abort();
        let _ = accepting.await;
        *self.listening.lock().unwrap() = Listening::No(socket);
        std::mem::take(&mut *self.lifeline.lock().unwrap()).cancel();
        self.closed().await;
    }

    /// Cuts every connection; new ones are accepted.
    pub(crate) async fn cut(&self) {
        self.refuse().await;
        self.listen();
    }

    /// Another process takes over the address: connections end, and new ones lead to `target`.
    pub(crate) async fn lead_to(&self, target: SocketAddr) {
        self.refuse().await;
        self.target.send_replace(target);
        self.listen();
    }

    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Waits until no connection is open.
    pub(crate) async fn closed(&self) {
        let mut open = self.open.subscribe();
        let closed = open.wait_for(|open| *open == 0);
        guarded("all connections end", closed).await.unwrap();
    }

    pub(crate) fn connections(&self) -> usize {
        *self.open.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.lifeline.get_mut().unwrap().cancel();
        if let Listening::Yes(accepting) = self.listening.get_mut().unwrap() {
            accepting.abort();
        }
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    // So that the port can be kept while the socket that listened on it goes.
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(
    listener: TcpListener,
    target: watch::Sender<SocketAddr>,
    mode: watch::Sender<Mode>,
    open: watch::Sender<usize>,
    lifeline: CancellationToken,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *mode.borrow() == Mode::CloseAtAccept {
            continue;
        }
        open.send_modify(|open| *open += 1);
        let (mode, open, lifeline) = (mode.subscribe(), open.clone(), lifeline.clone());
        let target = *target.borrow();
        tokio::spawn(async move {
            let _ = lifeline
                .run_until_cancelled(pass(client, target, mode))
                .await;
            open.send_modify(|open| *open -= 1);
        });
    }
}

/// Passes bytes on both ways until one side ends or the mode says so.
async fn pass(
    mut client: TcpStream,
    target: SocketAddr,
    mode: watch::Receiver<Mode>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from_client.read(&mut buffer).await?;
            if length == 0 || *mode.borrow() == Mode::CutRequests {
                return Ok::<(), std::io::Error>(());
            }
            to_server.write_all(&buffer[..length]).await?;
        }
    };
    let answers = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<(), std::io::Error>(());
            }
            if *mode.borrow() != Mode::HoldAnswers {
                to_client.write_all(&buffer[..length]).await?;
            }
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = answers => ended,
    }
}
