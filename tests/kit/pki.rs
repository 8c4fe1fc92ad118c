//! A certification authority of the test's own, by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority, and where its files are.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    /// `None` where there is no `openssl`.
    ///
    /// # Panics
    /// Where it fails.
    pub fn new() -> Option<Authority> {
        let there = Command::new("openssl").arg("version").output();
        if !there.is_ok_and(|it| it.status.success()) {
            return None;
        }
        let folder = tempfile::Builder::new().prefix("presswork-pki-").tempdir();
        let authority = Authority {
            folder: folder.expect("a temporary folder can be made"),
        };
        let (key, cert) = (authority.path("ca.key"), authority.path("ca.pem"));
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ]);
        command.args(["-nodes", "-days", "2", "-subj", "/CN=Test authority"]);
        run(command.arg("-keyout").arg(key).arg("-out").arg(cert));
        // servers run as other users
        open(authority.folder.path());
        Some(authority)
    }

    /// The authority's own certificate, by which others are checked.
    pub fn root(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A certificate and its key for `name`, signed; `alternative` such as `DNS:localhost`.
    ///
    /// # Panics
    /// Where `openssl` fails.
    pub fn sign(&self, name: &str, alternative: &str) -> (PathBuf, PathBuf) {
        let (key, ask) = (
            self.path(&format!("{name}.key")),
            self.path(&format!("{name}.csr")),
        );
        let (cert, more) = (
            self.path(&format!("{name}.pem")),
            self.path(&format!("{name}.ext")),
        );
        let mut command = Command::new("openssl");
        command.args([
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]);
        command.args(["-subj", &format!("/CN={name}")]);
        run(command.arg("-keyout").arg(&key).arg("-out").arg(&ask));
        std::fs::write(&more, format!("subjectAltName={alternative}\n")).expect("a file");
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "2", "-CAcreateserial"]);
        command
            .arg("-in")
            .arg(&ask)
            .arg("-extfile")
            .arg(&more)
            .arg("-out")
            .arg(&cert);
        run(command
            .arg("-CA")
            .arg(self.root())
            .arg("-CAkey")
            .arg(self.path("ca.key")));
        (cert, key)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let all = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, all).expect("our own folder");
}

fn run(command: &mut Command) {
    let output = command.output().expect("openssl starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}
