//! Who knocks at the Redis port.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long all answers may take.
const ANSWERED: Duration = Duration::from_secs(60);

/// With wrong passwords, with the right one, and with secrets where none belongs, alone and in a
/// transaction. What was answered.
pub async fn knock(resp: SocketAddr, heart: &str, token: &str) -> Vec<u8> {
    let named = |word: &str| word.replace("CANARY", heart);
    let knocks = [
        vec!["AUTH", heart],
        vec!["AUTH", "me", heart],
        vec!["HELLO", "3", "AUTH", "me", heart],
        vec!["AUTH", token],
        vec!["HELLO", "2", "AUTH", "default", token],
    ];
    let wrong = [
        ["RPUSH", "presswork:inbox", "{\"token\": \"CANARY\""],
        ["RPUSH", "presswork:inbox", "sk-CANARY"],
        [
            "RPUSH",
            "presswork:inbox",
            "{\"kind\": \"test.job\", \"payload\": {}, \"access_token\": \"CANARY\"}",
        ],
        [
            "RPUSH",
            "presswork:inbox",
            "{\"kind\": \"sk-CANARY\", \"payload\": {}}",
        ],
        [
            "RPUSH",
            "presswork:inbox",
            "{\"kind\": \"test.job\", \"payload\": {\"sk-CANARY\": 1}}",
        ],
        ["RPUSH", "sk-CANARY", "{}"],
        ["SET", "password", "sk-CANARY"],
        ["sk-CANARY", "a", "b"],
        ["CONFIG", "sk-CANARY", "sk-CANARY"],
    ]
    .map(|it| it.map(named));
    let mut words: Vec<Vec<&str>> = knocks.to_vec();
    let all = wrong.iter().map(|it| it.each_ref().map(String::as_str));
    words.extend(all.clone().map(|it| it.to_vec()));
    for it in all {
        words.extend([vec!["MULTI"], it.to_vec(), vec!["EXEC"]]);
    }
    words.push(vec!["QUIT"]);
    let mut said = Vec::new();
    for command in &words {
        said.extend(format!("*{}\r\n", command.len()).into_bytes());
        for word in command {
            said.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
        }
    }
    let mut stream = TcpStream::connect(resp).await.expect("it listens");
    stream.write_all(&said).await.expect("it reads");
    let mut answers = Vec::new();
    let read = stream.read_to_end(&mut answers);
    let read = tokio::time::timeout(ANSWERED, read).await;
    read.expect("it ends").expect("it answers");
    let text = String::from_utf8_lossy(&answers).into_owned();
    for (word, times) in [("-WRONGPASS", 3), ("-MALFORMED", 3), ("-EXECABORT", 9)] {
        assert_eq!(text.matches(word).count(), times, "{word}: {text}");
    }
    answers
}
