//! What goes over a link that stands: messages, bytes, and how either side gives a stream up.

use bytes::Bytes;
use shoal_proto::limits::FRAME_BYTES_MAX;
use shoal_proto::wire::{Answer, Ask, DecodeError, PeerMessage, Refusal, RefusalCode};

use super::*;

/// A question's stream between two members, seen from both ends, with what keeps them alive.
struct Question {
    asker: AskStream,
    answerer: AnswerStream,
    _links: (Server, Connected, Connected),
}

fn question() -> Ask {
    Ask::Piece {
        digest: Digest::Sha256([7; 32]),
        index: 3,
    }
}

async fn ask() -> Question {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) =
        meet(as_role(Role::Agent), &mut server, Expect::Role(Role::Agent)).await;
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    let mut asker = soon(dialed.link.open_ask()).await.unwrap();
    asker.send.write_message(&question()).await.unwrap();
    let mut answerer = soon(accepted.link.accept_ask()).await.unwrap();
    let asked: Ask = soon(answerer.recv.read_message()).await.unwrap();
    assert_eq!(asked, question());
    Question {
        asker,
        answerer,
        _links: (server, dialed, accepted),
    }
}

/// A link between an old agent and a new one closed at the first word that the old one did not know.
#[tokio::test]
async fn a_word_that_is_not_known_is_passed_over() {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) =
        meet(as_role(Role::Agent), &mut server, Expect::Role(Role::Agent)).await;
    let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap());
    let known = PeerMessage::Free {
        digest: Digest::Sha256([7; 32]),
    };
    // Field 200, of two bytes; in a frame of five.
    let unknown = Bytes::from_static(&[0, 0, 0, 5, 0xc2, 0x0c, 2, 1, 2]);
    dialed.sender.0.write_bytes(unknown).await.unwrap();
    dialed.sender.send(&known).await.unwrap();
    assert_eq!(soon(accepted.receiver.recv()).await.unwrap(), Some(known));
}

#[tokio::test]
async fn questions_are_answered_on_their_own_stream() {
    let mut server = serve(as_role(Role::Agent));
    let (dialed, accepted) =
        meet(as_role(Role::Agent), &mut server, Expect::Role(Role::Agent)).await;
    let (dialed, accepted) = (dialed.unwrap(), accepted.unwrap());
    let question = Ask::Piece {
        digest: Digest::Sha256([7; 32]),
        index: 3,
    };
    let answer = Answer::Refusal(Refusal::new(RefusalCode::Busy));
    let asking = async {
        let mut stream = dialed.link.open_ask().await.unwrap();
        stream.send.write_message(&question).await.unwrap();
        stream.send.finish();
        let answer: Answer = stream.recv.read_message().await.unwrap();
        (answer, stream.recv.read_bytes(9).await.unwrap())
    };
    let answering = async {
        let mut stream = accepted.link.accept_ask().await.unwrap();
        assert_eq!(stream.recv.read_message::<Ask>().await.unwrap(), question);
        stream.send.write_message(&answer).await.unwrap();
        stream
            .send
            .write_bytes(Bytes::from_static(b"piece"))
            .await
            .unwrap();
        stream.send.finish();
        stream.send.taken().await
    };
    let ((got, bytes), taken) = soon(async { tokio::join!(asking, answering) }).await;
    assert_eq!(got, answer);
    assert_eq!(bytes.as_deref(), Some(&b"piece"[..]));
    assert!(taken);
}

#[tokio::test]
async fn aborted_answer_is_an_error_and_never_an_end() {
    let mut q = ask().await;
    let half = Bytes::from_static(b"half a piece");
    q.answerer.send.write_bytes(half).await.unwrap();
    q.answerer.send.abort();
    let end = soon(async {
        loop {
            match q.asker.recv.read_bytes(1 << 20).await {
                Ok(Some(_)) => {}
                end => return end,
            }
        }
    });
    let end = end.await;
    assert!(matches!(end, Err(FrameError::Read(_))), "{end:?}");
}

#[tokio::test]
async fn asker_that_gives_up_stops_the_answerer() {
    let Question {
        asker,
        mut answerer,
        _links,
    } = ask().await;
    drop(asker.recv);
    let piece = Bytes::from(vec![0; 1 << 20]);
    let stopped = soon(async {
        loop {
            if let Err(error) = answerer.send.write_bytes(piece.clone()).await {
                return error;
            }
        }
    });
    let error = stopped.await;
    let FrameError::Write(quinn::WriteError::Stopped(_)) = error else {
        panic!("{error:?}");
    };
    assert!(!soon(answerer.send.taken()).await);
}

#[tokio::test]
async fn message_may_come_in_any_number_of_packets() {
    let mut q = ask().await;
    let answer = Answer::Refusal(Refusal::new(RefusalCode::Busy));
    let frame = answer.encode();
    let dribbling = async {
        for at in 0..frame.len() {
            let byte = frame.slice(at..=at);
            q.answerer.send.write_bytes(byte).await.unwrap();
            tokio::task::yield_now().await;
        }
        q.answerer.send.finish();
        q.answerer.send.taken().await
    };
    let reading = async {
        let got: Answer = q.asker.recv.read_message().await.unwrap();
        let end: Option<Answer> = q.asker.recv.next_message().await.unwrap();
        (got, end)
    };
    let (taken, (got, end)) = soon(async { tokio::join!(dribbling, reading) }).await;
    assert!(taken);
    assert_eq!(got, answer);
    assert_eq!(end, None);
}

#[tokio::test]
async fn stream_that_ends_inside_a_frame_is_no_message() {
    for sent in [&[0u8, 0][..], &[0, 0, 0, 9], &[0, 0, 0, 9, 1, 2, 3]] {
        let mut q = ask().await;
        let bytes = Bytes::copy_from_slice(sent);
        q.answerer.send.write_bytes(bytes).await.unwrap();
        q.answerer.send.finish();
        let read = soon(q.asker.recv.read_message::<Answer>()).await;
        assert!(matches!(read, Err(FrameError::Ended)), "{sent:?}: {read:?}");
    }
}

#[tokio::test]
async fn frame_over_the_cap_of_its_kind_is_refused_before_its_body_comes() {
    let mut q = ask().await;
    let claim = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    let head = Bytes::copy_from_slice(&claim.to_be_bytes());
    q.asker.send.write_bytes(head).await.unwrap();
    let read = soon(q.answerer.recv.read_message::<Ask>()).await;
    let Err(FrameError::Decode(DecodeError::TooLong { length, max })) = read else {
        panic!("{read:?}");
    };
    assert_eq!((length, max), (FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX));
}
