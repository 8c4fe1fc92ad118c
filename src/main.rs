//! Parse, run, exit: the only place that exits.

fn main() {
    // one crypto provider for every TLS connection; `Err` only says that there is one already
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let code = match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(presswork::cli::main(std::env::args_os().collect()));
            // what still runs in the background must not keep a command from ending
            runtime.shutdown_background();
            code
        }
        Err(e) => {
            eprintln!("error: no threads can be started: {e}");
            1
        }
    };
    std::process::exit(i32::from(code));
}
