{
  description = "FlareDB, a key-value database on RocksDB";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      forEachSystem =
        outputsFor: nixpkgs.lib.genAttrs systems (system: outputsFor nixpkgs.legacyPackages.${system});

      manifest = builtins.fromTOML (builtins.readFile ./Cargo.toml);

      # One build of the workspace, so that RocksDB is compiled once for all three programs.
      workspace =
        pkgs:
        pkgs.rustPlatform.buildRustPackage {
          pname = "flaredb";
          version = manifest.workspace.package.version;
          src = ./.;
          cargoLock.lockFile = ./Cargo.lock;
          # Sets LIBCLANG_PATH for the generation of RocksDB's bindings.
          nativeBuildInputs = [ pkgs.rustPlatform.bindgenHook ];
          # jemalloc takes the page size of the machine that compiles; some kernels have larger ones.
          env = pkgs.lib.optionalAttrs pkgs.stdenv.hostPlatform.isAarch64 { JEMALLOC_SYS_WITH_LG_PAGE = "16"; };
          cargoBuildFlags = [
            "--workspace"
            "--all-features"
          ];
          cargoTestFlags = [
            "--workspace"
            "--all-features"
          ];
          # `nix flake check` runs the tests.
          doCheck = false;
        };

      program =
        pkgs: name:
        pkgs.runCommand name { meta.mainProgram = name; } ''
          mkdir -p $out/bin
          ln -s ${workspace pkgs}/bin/${name} $out/bin/${name}
        '';
    in
    {
      packages = forEachSystem (pkgs: {
        default = workspace pkgs;
        rdb-server = program pkgs "rdb-server";
        rdb-pd = program pkgs "rdb-pd";
        rdbctl = program pkgs "rdbctl";
      });

      apps = forEachSystem (
        pkgs:
        let
          app = name: {
            type = "app";
            program = "${workspace pkgs}/bin/${name}";
          };
        in
        {
          default = app "rdbctl";
          rdb-server = app "rdb-server";
          rdb-pd = app "rdb-pd";
          rdbctl = app "rdbctl";
        }
      );

      checks = forEachSystem (pkgs: {
        tests = (workspace pkgs).overrideAttrs { doCheck = true; };
        format =
          pkgs.runCommand "flaredb-format"
            {
              nativeBuildInputs = [
                pkgs.cargo
                pkgs.rustfmt
              ];
            }
            ''
              cd ${self}
              cargo fmt --all --check
              touch $out
            '';
      });

      devShells = forEachSystem (pkgs: {
        # `scripts/verify-core.sh` and `scripts/test.sh` find all they need in here.
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.rustc
            pkgs.clippy
            pkgs.rustfmt
            pkgs.rust-analyzer
            pkgs.rustPlatform.bindgenHook
          ];
        };
      });
    };
}
