//! A body of any length costs the gateway the memory of a few pieces.

use bytes::Bytes;
use caracal_testing::{Behaviour, Process, Service, StackOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::world::{RESOURCE, World};

const MIB: u64 = 1 << 20;
/// The length of each body.
const BYTES: u64 = 1_024 * MIB;
/// How much the gateway may grow.
const GROWTH_MAX: u64 = 16 * MIB;
/// Size of the pieces in which the client sends and receives.
const PIECE: usize = 256 << 10;

/// The most memory the process has ever had, as the operating system counts it.
fn most_memory(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id().unwrap())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib * 1_024
}

/// A connection to the gateway on which the head of a request was sent.
async fn ask(world: &World, mandate: &str, head: &str) -> TcpStream {
    let address = world.stack.gateway_url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {mandate}\r\nx-caracal-resource: {RESOURCE}\r\nconnection: close\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Sends a body and gives what the upstream says about it.
async fn upload(world: &World, mandate: &str, is_length_told: bool) -> String {
    let mut stream = ask(world, mandate, "POST /upload").await;
    let framing = if is_length_told {
        format!("content-length: {BYTES}\r\n\r\n")
    } else {
        "transfer-encoding: chunked\r\n\r\n".to_owned()
    };
    stream.write_all(framing.as_bytes()).await.unwrap();
    let (piece, end) = if is_length_told {
        (Bytes::from(vec![b'x'; PIECE]), "")
    } else {
        let chunk = [format!("{PIECE:x}\r\n").as_bytes(), &vec![b'x'; PIECE], b"\r\n"].concat();
        (Bytes::from(chunk), "0\r\n\r\n")
    };
    for _piece in 0..BYTES / PIECE as u64 {
        stream.write_all(&piece).await.unwrap();
    }
    stream.write_all(end.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Receives a body, gives the head of the answer and how many bytes came behind it.
async fn download(world: &World, mandate: &str) -> (String, u64) {
    let mut stream = ask(world, mandate, "GET /download").await;
    stream.write_all(b"\r\n").await.unwrap();
    let mut buffer = vec![0; PIECE];
    let mut head = Vec::new();
    let head_end = loop {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&head));
        head.extend_from_slice(&buffer[..read]);
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let mut received = (head.len() - head_end) as u64;
    loop {
        match stream.read(&mut buffer).await.unwrap() {
            0 => break,
            read => received += read as u64,
        }
    }
    (
        String::from_utf8_lossy(&head[..head_end]).to_lowercase(),
        received,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_either_way_costs_the_gateway_no_memory() {
    let options = StackOptions::default().set_for(Service::Gateway, "MAX_REQUEST_BYTES", "2GiB");
    let world = World::start(options).await;
    world.bind().await;
    let mandate = world.reusable().await;
    caracal_testing::wait_until(crate::world::SOON, async || {
        world.call().mandate(&mandate).send("/").await.status == 200
    })
    .await;
    let gateway = &world.stack.gateways[0];
    let before = most_memory(gateway);

    world.upstream.set(Behaviour::Count);
    for is_length_told in [true, false] {
        let answer = upload(&world, &mandate, is_length_told).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(&format!("\r\n\r\n{BYTES}")), "{answer}");
    }
    for is_length_told in [true, false] {
        world.upstream.set(Behaviour::Flood {
            bytes: BYTES,
            is_length_told,
        });
        let (head, received) = download(&world, &mandate).await;
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        if is_length_told {
            assert!(head.contains(&format!("content-length: {BYTES}\r\n")), "{head}");
            assert_eq!(received, BYTES);
        } else {
            assert!(head.contains("transfer-encoding: chunked"), "{head}");
            assert!(received > BYTES, "{received} with the frames of the chunks");
        }
    }

    let growth = most_memory(gateway) - before;
    println!("four bodies of a GiB cost {} KiB of memory", growth / 1_024);
    assert!(growth < GROWTH_MAX, "the gateway grew by {growth} bytes");
}
