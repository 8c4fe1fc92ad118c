//! Parse, run, exit: the only place that exits.

fn main() {
    // one crypto provider for every TLS connection; `Err` only says that there is one already
    let _ = rustls::crypto::ring::default_provider().install_default();
    let code = presswork::cli::main(std::env::args_os().collect());
    std::process::exit(i32::from(code));
}
