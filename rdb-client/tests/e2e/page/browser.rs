//! A headless browser, driven over WebDriver (W3C), which Debian's `chromium-driver` speaks: JSON over HTTP/1.1 on loopback.
//!
//! The crates that speak it bring some forty others into every build of the workspace, Unicode tables among them. The seven commands
//! that are needed here are one request each.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

use crate::harness::{found, guarded, skipped};

const DRIVER: &str = "chromedriver";

/// Keys that have no character, as WebDriver names them.
pub(super) const TAB: &str = "\u{e004}";
pub(super) const ENTER: &str = "\u{e007}";
pub(super) const SHIFT: &str = "\u{e008}";
pub(super) const LEFT: &str = "\u{e012}";
pub(super) const RIGHT: &str = "\u{e014}";
pub(super) const HOME: &str = "\u{e011}";
pub(super) const END: &str = "\u{e010}";

/// What the driver says on its standard output once it listens.
const LISTENING: &str = "was started successfully on port ";

/// How often the driver is started at most.
const STARTS_MAX: usize = 5;

/// How often, and how often at most, it is looked whether a killed browser is gone.
const ENDING_PAUSE: Duration = Duration::from_millis(10);
const ENDING_LOOKS_MAX: usize = 200;

/// A browser with one window. Dropping it ends all of its processes.
pub(super) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    _home: TempDir,
}

impl Browser {
    /// Starts one. `None`: there is none on this machine, and the test is skipped.
    pub(super) async fn start() -> Option<Self> {
        if !is_installed() {
            skipped("chromedriver, of the packages chromium and chromium-driver, is not installed");
            return None;
        }
        // The driver takes a free port of IPv6, and ends when another process has the same one of IPv4.
        for _ in 0..STARTS_MAX {
            let mut browser = Self::spawn();
            if let Some(port) = browser.listening().await {
                browser.port = port;
                browser.begin().await;
                return Some(browser);
            }
        }
        panic!("the driver ended before it listened, {STARTS_MAX} times");
    }

    /// Starts the driver. From here on its end is taken care of, whatever fails.
    fn spawn() -> Self {
        let home = TempDir::new().expect("the temporary directory can be written");
        let log = File::create(home.path().join("driver.log")).expect("it can be written");
        let mut command = Command::new(DRIVER);
        // It has neither a display nor the settings of whoever runs the tests.
        command
            .arg("--port=0")
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .env("LANG", "C.UTF-8")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0);
        Self {
            driver: command.spawn().expect("it can be started"),
            port: 0,
            session: String::new(),
            _home: home,
        }
    }

    /// The port of the driver, once it listens. `None`: it ended before.
    async fn listening(&mut self) -> Option<u16> {
        let stdout = self.driver.stdout.take().expect("it is piped");
        let listening = spawn_blocking(move || {
            let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let port = lines.find_map(|line| {
                let (_, rest) = line.split_once(LISTENING)?;
                rest.trim_end_matches('.').parse().ok()
            });
            // It goes on to write, and must not find the pipe closed.
            std::thread::spawn(move || lines.for_each(drop));
            port
        });
        let listening = guarded("the driver listens", listening).await;
        listening.expect("no panic")
    }

    async fn begin(&mut self) {
        let profile = self._home.path().join("profile");
        let arguments = [
            "--headless=new".to_owned(),
            // As root there is no sandbox, and all that is loaded is ours.
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-breakpad".to_owned(),
            "--no-first-run".to_owned(),
            format!("--user-data-dir={}", profile.display()),
        ];
        let capabilities = json!({
            "alwaysMatch": {
                "goog:chromeOptions": { "args": arguments },
                "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            },
        });
        let begun = self
            .ask("POST", "/session", json!({ "capabilities": capabilities }))
            .await;
        self.session = begun["sessionId"].as_str().expect("a session").to_owned();
    }

    /// Shows an address, and waits until it is loaded.
    pub(super) async fn open(&self, url: &str) {
        self.command("/url", json!({ "url": url })).await;
    }

    /// What the body of a function returns there.
    pub(super) async fn run(&self, body: &str) -> Value {
        self.command("/execute/sync", json!({ "script": body, "args": [] }))
            .await
    }

    /// Waits until the body of a function returns something that is not null, false, 0 or empty.
    pub(super) async fn find(&self, what: &str, body: &str) -> Value {
        found(what, async || {
            let value = self.run(body).await;
            let is_nothing = value.is_null() || value == false || value == 0 || value == "";
            (!is_nothing).then_some(value)
        })
        .await
    }

    /// Presses and releases a key.
    pub(super) async fn press(&self, key: &str) {
        self.press_together(&[key]).await;
    }

    /// Presses these keys one after the other, and releases them in the reverse order.
    pub(super) async fn press_together(&self, keys: &[&str]) {
        let down = keys
            .iter()
            .map(|key| json!({ "type": "keyDown", "value": key }));
        let up = keys.iter().rev();
        let up = up.map(|key| json!({ "type": "keyUp", "value": key }));
        let actions = json!([{
            "type": "key",
            "id": "keyboard",
            "actions": down.chain(up).collect::<Vec<_>>(),
        }]);
        self.command("/actions", json!({ "actions": actions }))
            .await;
    }

    /// The entries of a log since it was asked for last.
    pub(super) async fn log(&self, of: &str) -> Vec<Value> {
        let entries = self.command("/se/log", json!({ "type": of })).await;
        entries.as_array().expect("a list").clone()
    }

    /// The window gets this size, and the colours of the system are dark or light.
    pub(super) async fn resemble(&self, width: u32, height: u32, is_dark: bool) {
        let scheme = if is_dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": features }),
        )
        .await;
        let metrics = json!({
            "width": width,
            "height": height,
            "deviceScaleFactor": 1,
            "mobile": width < 500,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics)
            .await;
    }

    /// Writes a picture of the whole page for a person to look at.
    pub(super) async fn picture(&self, name: &str) {
        let taken = self
            .devtools(
                "Page.captureScreenshot",
                json!({ "captureBeyondViewport": true }),
            )
            .await;
        let taken = taken["data"].as_str().expect("base64");
        let path = pictures().join(format!("{name}.png"));
        let taken = STANDARD.decode(taken).expect("base64");
        std::fs::write(&path, taken).expect("the target directory can be written");
        println!("{}", path.display());
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let asked = json!({ "cmd": command, "params": parameters });
        self.command("/goog/cdp/execute", asked).await
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask("POST", &path, body).await
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = guarded(path, self.exchange(method, path, body.to_string())).await;
        let (head, answer) = answer;
        let mut answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert!(
            head.starts_with("HTTP/1.1 200"),
            "{path} {body}: {head}\n{answer:#}"
        );
        answer["value"].take()
    }

    /// One request on a connection of its own.
    async fn exchange(&self, method: &str, path: &str, body: String) -> (String, String) {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await;
        let mut stream = stream.expect("the driver listens");
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let sent = stream.write_all(request.as_bytes()).await;
        sent.expect("the driver takes it");
        let mut answer = Vec::new();
        loop {
            if let Some(whole) = whole(&answer) {
                return whole;
            }
            let read = stream.read_buf(&mut answer).await;
            assert!(read.expect("the driver answers") > 0, "{path}: cut off");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser's processes are in the driver's group.
        let group = Pid::from_child(&self.driver);
        // They may have ended already.
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.driver.wait();
        // Its files go next, and a process that is dying may still write some.
        for _ in 0..ENDING_LOOKS_MAX {
            if test_kill_process_group(group).is_err() {
                break;
            }
            sleep(ENDING_PAUSE);
        }
    }
}

/// Head and body of an answer, once all of it is there.
fn whole(answer: &[u8]) -> Option<(String, String)> {
    let text = String::from_utf8_lossy(answer);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = answer.get(head.len() + 4..head.len() + 4 + length)?;
    Some((head.to_owned(), String::from_utf8_lossy(body).into_owned()))
}

fn is_installed() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(DRIVER).is_file())
}

/// Where pictures go: beside the binaries.
fn pictures() -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
    std::fs::create_dir_all(&directory).expect("the target directory can be written");
    directory
}
