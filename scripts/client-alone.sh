#!/usr/bin/env bash
# Compiles rdb-client as an application gets it: without the crates and features of this workspace beside it, then the same with each
# of its features. The application enables nothing of tokio but `rt`.
set -euo pipefail

# shellcheck source=scripts/lib/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib/setup.sh"

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
  require_cargo
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
  copy_crates
  write_application
  # The versions of Cargo.lock; only the application is new in it.
  check
  check --features metrics
  check --features tls
}

# check FLAG…
check() {
  cargo check --offline --manifest-path "$directory/application/Cargo.toml" \
    --target-dir "$CARGO_TARGET_DIR/client-alone" "$@"
}

# Both crates under a workspace of their own, with this one's versions and lints.
copy_crates() {
  cp -r rdb-client rdb-proto Cargo.lock "$directory/"
  sed 's/^members = .*/members = ["rdb-client", "rdb-proto", "application"]/' Cargo.toml >"$directory/Cargo.toml"
}

write_application() {
  mkdir -p "$directory/application/src"
  cat >"$directory/application/Cargo.toml" <<'TOML'
[package]
name = "application"
version = "0.1.0"
edition = "2024"

[features]
metrics = ["rdb-client/metrics"]
tls = ["rdb-client/tls"]

[dependencies]
rdb-client = { path = "../rdb-client" }
tokio = { version = "1", features = ["rt"] }
TOML
  cat >"$directory/application/src/main.rs" <<'RUST'
use rdb_client::{Bytes, Client, Config, Error};

fn config() -> Config {
    #[cfg(feature = "tls")]
    return Config::default().with_tls(rdb_client::Tls::with_ca_file("ca.pem"));
    #[cfg(not(feature = "tls"))]
    Config::default()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let value: Option<Bytes> = runtime.block_on(async {
        let client = Client::connect_with(["127.0.0.1:2379"], config()).await?;
        client.raw_put("k1", "v1").await?;
        let value = client.raw_get("k1").await?;
        Ok::<_, Error>(value)
    })?;
    println!("{value:?}");
    Ok(())
}
RUST
}

main "$@"
