//! What is said of certificates, and what to do about it.

/// What the TLS library says, with advice where it speaks of a certificate. The options that it names
/// are the same in the URLs of all stores.
pub fn advised(said: &str) -> String {
    let has = |words: &[&str]| words.iter().any(|it| said.contains(it));
    let advice = if has(&["UnknownIssuer"]) {
        "; name the CA that signed it at the end of the URL: sslrootcert=PATH"
    } else if has(&["not valid for name", "NotValidForName"]) {
        "; write the host as the certificate has it"
    } else if has(&["CertificateRequired", "requires a valid client certificate"]) {
        "; name yours at the end of the URL: sslcert=PATH&sslkey=PATH"
    } else {
        ""
    };
    format!("{said}{advice}")
}
