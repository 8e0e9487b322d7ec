//! Every bound in Shoal: what it is of, in which unit, and why it has this value (I6).
//!
//! Not here: defaults that an operator sets, which live with each process's configuration. Relations between limits
//! are asserted at compile time at the end.

use core::time::Duration;

// ---------------------------------------------------------------- blobs and pieces

/// The longest blob, in bytes: 256 GiB. No registry takes longer layers; it bounds bitfields.
pub const BLOB_BYTES_MAX: u64 = 256 << 30;
/// The shortest piece but the last, in bytes. A piece has to be whole before it is passed on, so that a fan-out ends a few
/// piece times after its origin: eight agents at 100 Mbit/s took 4 % longer with 1 MiB. At links as fast as the machine
/// the signature and the question of each cost nothing that was seen.
pub const PIECE_BYTES_MIN: u32 = 256 << 10;
/// The longest piece, in bytes: above it the start of a fan-out and the wait of a reader show.
pub const PIECE_BYTES_MAX: u32 = 8 << 20;
/// Pieces that a blob is cut into when bounds allow: ten piece times of start-up are then 1 %, and the first piece of a
/// layer of 1 GiB, without which no reader has a byte, is 1 MiB.
pub const PIECES_TARGET: u64 = 1024;
/// The most pieces of a blob: a bitfield of 4 KiB.
pub const PIECES_MAX: u32 = 32_768;

// ---------------------------------------------------------------- names and texts

/// A zone's name, in bytes.
pub const ZONE_BYTES_MAX: usize = 64;
/// Name and version of a peer's software, in bytes; for people.
pub const SOFTWARE_BYTES_MAX: usize = 64;
/// A registry's host and port, in bytes: a DNS name and a port.
pub const REGISTRY_NAME_BYTES_MAX: usize = 261;
/// A repository's name, in bytes. Source: OCI distribution, host and name together below 255.
pub const REPOSITORY_NAME_BYTES_MAX: usize = 255;
/// A tag, in bytes. Source: OCI distribution.
pub const TAG_BYTES_MAX: usize = 128;
/// A tag or a digest, in bytes: a sha512 digest has 135.
pub const REFERENCE_BYTES_MAX: usize = 160;
/// All Accept lines of one request, in bytes.
pub const ACCEPT_BYTES_MAX: usize = 4 << 10;
/// Media ranges in the Accept lines of one request.
pub const ACCEPT_RANGES_MAX: usize = 64;
/// A manifest's media type, in bytes: a longer one is not repeated.
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// A caller's Authorization header, in bytes: registry tokens of 4 KiB are seen.
pub const AUTHORIZATION_BYTES_MAX: usize = 16 << 10;
/// An upstream's WWW-Authenticate, in bytes.
pub const CHALLENGE_BYTES_MAX: usize = 4 << 10;
/// The query of a list ask, in bytes: a page token of some registries is an encoded record.
pub const LIST_QUERY_BYTES_MAX: usize = 2 << 10;
/// What filters a registry says it applied to a list, in bytes.
pub const LIST_FILTERS_BYTES_MAX: usize = 255;
/// What a refusal tells people, in bytes.
pub const REFUSAL_DETAIL_BYTES_MAX: usize = 256;
/// Byte ranges in one HTTP request, as other registries cap it.
pub const HTTP_RANGES_MAX: usize = 16;

// ---------------------------------------------------------------- wire

/// A frame on a control or request stream, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// A frame that answers a manifest ask, in bytes: a manifest and its envelope.
pub const MANIFEST_FRAME_BYTES_MAX: usize = MANIFEST_BYTES_MAX + (512 << 10);
/// A manifest, in bytes. Source: containerd takes at most 4 × 1048 × 1048.
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// One page of a list of tags or referrers, in bytes: it goes in the frame of a manifest; 100,000 tags fit.
pub const LIST_BYTES_MAX: usize = MANIFEST_BYTES_MAX;
/// A handshake frame, in bytes: nobody is known yet.
pub const HELLO_BYTES_MAX: usize = 4 << 10;
/// A signed membership, in bytes.
pub const MEMBERSHIP_BYTES_MAX: usize = 512;
/// A join token's secret, in bytes.
pub const JOIN_SECRET_BYTES_MAX: usize = 64;
/// Piece numbers in one Have.
pub const HAVE_INDEXES_MAX: usize = 4096;
/// Swarms in one Announce; a node with more announces several times.
pub const SWARMS_PER_ANNOUNCE_MAX: usize = 1024;
/// Candidates in one Handout.
pub const HANDOUT_PEERS_MAX: usize = 64;
/// Holders that a refusal names.
pub const REFUSAL_HOLDERS_MAX: usize = 8;
/// Neighbours that an announce complains of.
pub const STUCK_PEERS_MAX: usize = 8;
/// Origins of one cluster.
pub const ORIGINS_MAX: usize = 64;
/// Origins' memberships that a peer remembers, past ones among them.
pub const VOUCHED_ORIGINS_MAX: usize = 256;

// ---------------------------------------------------------------- links

/// Links of an agent. One per pair of peers, for all blobs.
pub const LINKS_MAX: usize = 64;
/// Links of an origin or a tracker: every agent keeps one for manifests and announces.
pub const SERVICE_LINKS_MAX: usize = 16_384;
/// Handshakes under way at once.
pub const HANDSHAKES_MAX: usize = 256;
/// From the first packet to a checked membership.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Requests of one peer that are open on one link at once.
pub const ASKS_PER_LINK_MAX: usize = 64;
/// Waiting for the answer to an open or a manifest ask: below the 30 s after which containerd gives up on headers.
pub const OPEN_DEADLINE: Duration = Duration::from_secs(22);

// ---------------------------------------------------------------- the core

/// Peers that a node remembers, over all swarms.
pub const KNOWN_PEERS_MAX: usize = 16_384;
/// Swarms that one peer may declare its interest in.
pub const INTERESTS_PER_PEER_MAX: usize = 4096;
/// Neighbours wanted in one swarm: ten cost 3 % more time, fifty save 1.4 %.
pub const NEIGHBOURS: usize = 20;
/// One piece in so many on its way is one that a reader waits for; one at least. The others are the rarest: what
/// everybody fetches in the same order, nobody can trade. A half instead of a quarter took 3 % longer.
pub const URGENT_ONE_IN: usize = 4;
/// Pieces in a reader's urgent window.
pub const URGENT_WINDOW: usize = 8;
/// Pieces asked of one agent at once: the second waits there until the first is sent, and so covers the round trip.
pub const PIECES_IN_FLIGHT_PER_PEER: usize = 2;
/// The same where one that waits is less than what comes within a round trip. Pieces of 256 KiB took 1.33 of the bound at
/// 50 ms without this, and 1.16 with it.
pub const PIECES_IN_FLIGHT_PER_PEER_MAX: usize = 3;
/// Pieces asked of one origin at once.
pub const PIECES_IN_FLIGHT_PER_ORIGIN_MAX: usize = 3;
/// The next piece is asked for when no more than this share of a piece should still be to come: asked earlier, it would
/// only be chosen by older news.
pub const ASKED_AHEAD_SHARE: f64 = 0.4;
/// Pieces in flight over all swarms, at most.
pub const PIECES_IN_FLIGHT_MAX: usize = 36;
/// Agents that pieces are fetched from at once, before rates are known: as many as each of them serves.
pub const SOURCES_START: usize = 3;
/// The same, at least.
pub const SOURCES_MIN: usize = 3;
/// The same, at most.
pub const SOURCES_MAX: usize = 12;
/// A source below this share of the usual rate is slow.
pub const SLOW_SHARE: f64 = 0.45;
/// Peers that are served at once. On links that share themselves out at once, two givers and two takers for each node
/// would do, and three cost 1 %; on real ones no two flows get the same, and a third fills what they leave: 3 % less time
/// on eight shaped links, where four gave none of it more.
pub const UPLOAD_SLOTS: usize = 3;
/// Peers that are served at once when some of them are slow, or want another blob.
pub const UPLOAD_SLOTS_MAX: usize = 4;
/// Pieces that one peer may have asked for: one that is sent, the others wait behind it.
pub const SLOT_DEPTH: usize = PIECES_IN_FLIGHT_PER_PEER_MAX;
/// Pieces after which a slot has to be won anew. Pairs that stayed together for good would be a fixed tree, in which
/// everything waits for its slowest branch.
pub const SLOT_PIECES: u32 = 24;
/// Pieces that are sent or wait to be sent, over all slots.
pub const UPLOADS_MAX: usize = UPLOAD_SLOTS_MAX * SLOT_DEPTH;
/// An upload that takes this long does not count against the slots.
pub const UPLOAD_OVERDUE: Duration = Duration::from_millis(500);
/// The shortest time after which a refused peer is asked to come back.
pub const RETRY_AFTER_MIN: Duration = Duration::from_millis(5);
/// The longest.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);
/// The same where no time can be told.
pub const RETRY_AFTER_GUESS: Duration = Duration::from_millis(50);
/// Refused peers over which comebacks are spread.
pub const REFUSED_SPREAD_MAX: u32 = 16;
/// Refused peers that are remembered, to be told when a slot is free.
pub const REFUSED_REMEMBERED_MAX: usize = 16;
/// A peer that said it has a slot is taken to have it for this long: in a crowd others come for it as well.
pub const FREE_BELIEVED: Duration = Duration::from_millis(500);
/// A peer that heard of so many free slots and came for none is told of the next after the others. One in a crowd often
/// has enough under way by then: passing it over at once took 4 % longer in small zones.
pub const FREE_UNHEEDED_MAX: u32 = 4;
/// Pieces of one neighbour that are held off at once.
pub const HELD_OFF_MAX: usize = 256;
/// Round trip time of a peer that was not measured.
pub const RTT_GUESS: Duration = Duration::from_millis(1);
/// One choice of a source in so many is a random one, to learn its rate.
pub const EXPLORE_ONE_IN: u32 = 8;
/// Turns of a piece, slow ones, after which a source that sent none counts no longer.
pub const COUNT_ON_TURNS: u32 = 3;
/// The same, at least.
pub const COUNT_ON_MIN: Duration = Duration::from_millis(20);
/// A piece is asked elsewhere no sooner than this.
pub const HEDGE_MIN: Duration = Duration::from_millis(200);
/// The same before enough pieces were timed.
pub const HEDGE_UNKNOWN: Duration = Duration::from_secs(2);
/// Pieces that must have been timed.
pub const HEDGE_SAMPLES_MIN: u32 = 4;
/// Peers that are asked for one piece at once, at most: when all of them are late, the next takes the first one's place.
pub const ASKED_OF_MAX: usize = 3;
/// With so few pieces missing, each may be asked of two sources.
pub const ENDGAME_PIECES: u32 = 4;

/// With no more neighbours than this, everything under a cursor is urgent.
pub const FEW_NEIGHBOURS: usize = 3;
/// With fewer agents than this an origin gives a piece twice rather than idle.
pub const FEW_AGENTS: usize = 8;
/// Pieces that an origin has offered or is sending at once: more than it sends well, so that none is waited for. Each goes
/// to an agent whose downlink others fill as well, and takes a round trip to be asked for. Eight took 3 % less time than
/// six with pieces of 256 KiB; of 1 MiB, they kept the intake from upstream, which comes over the same link, from its share.
pub const OFFERS_MAX: usize = 8;
/// Pieces that an origin gives to an agent of its own zone for each that it gives to one of another. What is given abroad
/// comes back over the same link between zones: of two zones, the one crosses once, the other twice.
pub const GIFTS_HOME_PER_ABROAD: u32 = 2;
/// Fresh pieces that an origin looks at for one that somebody can be offered: with few agents, those that lack the first
/// ones may have enough on their way.
pub const FRESH_LOOKED_AT: usize = 64;
/// Pieces that an origin is sending at once, those included that their receivers do not take: they do not count above, or
/// two agents that read nothing would keep it from giving anything to anybody.
pub const ORIGIN_UPLOADS_MAX: usize = 32;
/// An agent asks for what it was offered within this time, or another agent is offered it.
pub const OFFER_PATIENCE: Duration = Duration::from_millis(300);
/// One that let an offer pass is not offered more for as long again, while others want it; so often doubled at most.
pub const OFFERS_DOUBLED_MAX: u32 = 5;
/// However often doubled, it is offered the next after this time.
pub const OFFER_REST_MAX: Duration = Duration::from_secs(10);
/// A second copy of a given piece should be announced within this time, or four piece times if that is longer.
pub const SECOND_COPY_MIN: Duration = Duration::from_millis(500);
/// An agent that is refused a piece as given away may plead after this time.
pub const INJECTED_PAUSE: Duration = Duration::from_millis(500);
/// An agent that is refused a piece as not held may ask again after this time.
pub const NOT_HELD_PAUSE: Duration = Duration::from_millis(500);
/// The same where an origin is the only neighbour: what it has it offers at once, unless the offer was lost.
pub const PLEA_ALONE_AFTER: Duration = Duration::from_millis(50);
/// An origin that offered nothing is asked after this time without a piece.
pub const PLEA_AFTER: Duration = Duration::from_millis(200);
/// A neighbour that has no more pieces than this left to ask us for hears of the next at once.
pub const NEWS_OWING: u32 = 1;
/// Neighbours that hear of a rare piece at once.
pub const FAST_TELLS: usize = 3;
/// News of pieces waits at least this long for more.
pub const NEWS_DELAY_MIN: Duration = Duration::from_millis(1);
/// And at most this long.
pub const NEWS_DELAY_MAX: Duration = Duration::from_millis(10);
/// An origin needs to know of second copies only.
pub const NEWS_TO_ORIGIN_DELAY: Duration = Duration::from_millis(150);
/// Other zones hear of what they were not told at once only when we have held it for this long.
pub const NEWS_ABROAD_DELAY: Duration = Duration::from_millis(50);
/// Or for so many piece times, if that is longer. Twelve bring three copies into each zone instead of 1.2, because a
/// piece takes dozens of piece times to reach everybody in a large zone; none at all would leave it to one peer's word.
pub const NEWS_ABROAD_PIECES: u32 = 120;
/// Whoever holds everything tells other zones within so many piece times, each at its own moment: the first to be told
/// brings what its zone lacks, and the others need not.
pub const NEWS_ABROAD_LAST_PIECES: u32 = 16;
/// How long a slow source is remembered as slow.
pub const SLOW_MEMORY: Duration = Duration::from_secs(5);
/// A source that let a fetch starve is left alone for this long, doubling.
pub const STALL_PAUSE: Duration = Duration::from_millis(500);
/// A source that sent nothing for this long is replaced whatever it costs.
pub const SILENT_AFTER: Duration = Duration::from_millis(1500);
/// Late fetches are looked at again after this time.
pub const HEDGE_AGAIN: Duration = Duration::from_millis(20);
/// No refusal keeps us away for longer.
pub const RETRY_AFTER_OBEYED: Duration = Duration::from_secs(10);
/// A refusal that took longer says nothing of the round trip.
pub const RTT_MAX: Duration = Duration::from_secs(1);
/// Peers that a swarm remembers to dial.
pub const CANDIDATES_MAX: usize = 64;
/// A new swarm waits this long for the tracker's word before it asks an origin. A tracker that ten thousand agents ask in
/// the same moment takes 200 ms to answer all; those that did not wait for it would all be at the origin's link.
pub const HANDOUT_PATIENCE: Duration = Duration::from_millis(500);
/// Named holders have this long to be of use before an origin is asked.
pub const HOLDERS_PATIENCE: Duration = Duration::from_secs(1);
/// An origin that said yes is not asked to bring the blob again for this long.
pub const REOPEN_PAUSE: Duration = Duration::from_secs(1);
/// When no origin could bring it: the first pause, doubling.
pub const REOPEN_BACKOFF: Duration = Duration::from_millis(250);
/// Without a piece for this long, a swarm looks for more sources.
pub const STARVING_AFTER: Duration = Duration::from_secs(1);
/// A search is looked at again after this time.
pub const SEEK_AGAIN: Duration = Duration::from_millis(250);
/// Nobody could be reached and not even the shape is known: readers fail.
pub const NO_SOURCE_AFTER: Duration = Duration::from_secs(2);
/// No piece came for this long while a reader waits: readers fail.
pub const NO_PROGRESS_MAX: Duration = Duration::from_secs(20);
/// Pieces in a row that our own store may refuse.
pub const STORE_FAILURES_MAX: u32 = 3;
/// A blob that nobody reads goes on for this long.
pub const UNWANTED_GRACE: Duration = Duration::from_secs(60);
/// Between two announces of an incomplete blob.
pub const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two announces of a complete blob.
pub const ANNOUNCE_INTERVAL_SEEDING: Duration = Duration::from_secs(30);
/// The first pause before a tracker is asked for more peers, doubling.
pub const MORE_PEERS_PAUSE_MIN: Duration = Duration::from_millis(500);
/// The first pause before a peer that could not be reached is dialed again, doubling.
pub const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(500);
/// The longest.
pub const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A peer that sent a wrong piece is not spoken to for this long.
pub const BAN_SPAN: Duration = Duration::from_secs(600);
/// A link must have been useless for this long before it makes room for another.
pub const LINK_IDLE_MIN: Duration = Duration::from_secs(2);

// ---------------------------------------------------------------- shells of the core

/// Bytes that a reader hands out at once: larger bodies cost no less.
pub const READ_BYTES_MAX: usize = 1 << 20;
/// A reader hands out less than this only at the end of what is held.
pub const READ_FLOOR_BYTES: usize = 64 << 10;
/// A reader that gets no byte for this long fails, so that its client can go elsewhere.
pub const READER_STALL_MAX: Duration = Duration::from_secs(30);
/// Bytes of one positioned read of an upload.
pub const SERVE_STEP_BYTES: usize = 256 << 10;
/// Buffers of that size that a store keeps to be used again: as many as are read at once where reads are quick.
pub const SPARE_BUFFERS_MAX: usize = 16;
/// An upload whose peer takes no byte for this long is aborted.
pub const UPLOAD_STALLED_AFTER: Duration = Duration::from_secs(10);
/// A source that sends no byte for this long is replaced.
pub const FETCH_STALLED_AFTER: Duration = Duration::from_secs(2);
/// Waiting for the answer to a piece ask: a holder answers at once, if only with no.
pub const ANSWER_DEADLINE: Duration = FETCH_STALLED_AFTER;
/// Bytes of a piece that a fetch takes before it writes them: few calls, and still in cache.
pub const FETCH_BATCH_BYTES: usize = 512 << 10;
/// The same when the node's buffer budget is spent.
pub const FETCH_FLOOR_BYTES: usize = 64 << 10;
/// Reading a question, from the first byte of its stream.
pub const ASK_READ_DEADLINE: Duration = Duration::from_secs(5);
/// Piece asks of one link that wait for their answer or are being served; over it, BUSY without asking the core.
pub const ASKS_WAITING_PER_LINK_MAX: usize = 32;
/// Saying one control message: a peer that does not read for this long is hung up on.
pub const SAY_DEADLINE: Duration = Duration::from_secs(10);
/// Control messages that wait to be said to one peer; over it, it is too slow.
pub const OUTBOX_MAX: usize = 1024;
/// A question to an origin is acknowledged within this time, or the origin counts as dead: some round trips and one
/// retransmission.
pub const ASK_HEARD_WITHIN: Duration = Duration::from_secs(1);
/// An origin is reached within this time, or the next one is asked: a handshake and one retransmission of it.
pub const ORIGIN_REACHED_WITHIN: Duration = Duration::from_millis(1500);
/// Waiting for a manifest, over all origins that own it.
pub const MANIFEST_DEADLINE: Duration = Duration::from_secs(10);
/// Commands of handles that wait for the driver; over it, callers wait.
pub const COMMANDS_MAX: usize = 256;
/// Reports of tasks that wait for the driver; over it, tasks wait.
pub const REPORTS_MAX: usize = 1024;
/// Links being dialed at once; further dials wait in line.
pub const DIALS_MAX: usize = 16;
/// Two links with one peer that came up this close together were dialed across each other.
pub const CROSSED_DIALS_WITHIN: Duration = Duration::from_secs(3);
/// Callers that wait for a link with one peer.
pub const LINK_WAITERS_MAX: usize = 256;
/// The same when a new blob wants peers: its first byte waits for the answer.
pub const ANNOUNCE_GAP_URGENT: Duration = Duration::from_millis(5);
/// Between two announces to a tracker: what changes in between goes out together.
pub const ANNOUNCE_GAP_MIN: Duration = Duration::from_millis(100);
/// The first pause after a tracker could not be reached, before jitter.
pub const TRACKER_BACKOFF_MIN: Duration = Duration::from_millis(250);
/// The longest.
pub const TRACKER_BACKOFF_MAX: Duration = Duration::from_secs(15);

// ---------------------------------------------------------------- the store

/// Bytes of a piece that are gathered before they go to the file: in cache still, and calls are few.
pub const WRITE_BATCH_BYTES: usize = 512 << 10;
/// Bytes written to a partial blob between two syncs of it, unless told otherwise: few dirty pages, few calls.
pub const FLUSH_BYTES: u64 = 64 << 20;
/// Eviction goes on down to this share of the quota, so that it comes seldom.
pub const LOW_WATERMARK_PERCENT: u64 = 90;
/// Closing a store waits this long for writers before it gives up on a clean stop.
pub const STORE_CLOSE_PATIENCE: Duration = Duration::from_secs(5);
/// Pieces that no longer matched their proof and are kept for people to look at.
pub const QUARANTINED_MAX: usize = 16;
/// Manifests kept: a node sees a few per image.
pub const MANIFESTS_MAX: usize = 16_384;
/// All manifests kept, in bytes.
pub const MANIFESTS_BYTES_MAX: u64 = 128 << 20;
/// Tags kept.
pub const TAGS_MAX: usize = 65_536;
/// All tags kept, in bytes.
pub const TAGS_BYTES_MAX: u64 = 32 << 20;
/// One tag's name and what is known of it, in bytes: registry, repository, tag, digest, a time.
pub const TAG_ENTRY_BYTES_MAX: usize = 4 << 10;
/// All memberships of origins kept, in bytes.
pub const VOUCHED_BYTES_MAX: u64 = 1 << 20;
/// Blocking calls at once, of one process: one disk's queue and a few cores.
pub const BLOCKING_WORK_MAX: usize = 16;
/// The index's unflushed writes, in bytes.
pub const INDEX_WRITE_BUFFER_BYTES: usize = 4 << 20;
/// The index's cache of blocks read, in bytes.
pub const INDEX_BLOCK_CACHE_BYTES: usize = 8 << 20;
/// The index's log of writes, in bytes.
pub const INDEX_WAL_BYTES_MAX: u64 = 16 << 20;
/// Files that the index keeps open.
pub const INDEX_OPEN_FILES_MAX: i32 = 64;

// ---------------------------------------------------------------- private images

/// How long a yes to a caller's credential holds without asking its registry again: a revoked one works no longer.
pub const VERDICT_HOLD_MAX: Duration = Duration::from_secs(300);
/// Yeses remembered; the oldest goes first and is asked for again.
pub const VERDICTS_MAX: usize = 65_536;
/// Digests that an origin remembers to be in a repository by its registry's word; the oldest goes first.
pub const BELONGINGS_MAX: usize = 65_536;
/// Manifests of registries that ask each caller, which an origin keeps in memory alone, and their bytes.
pub const PRIVATE_MANIFESTS_MAX: usize = 4096;
/// All of them, in bytes.
pub const PRIVATE_MANIFESTS_BYTES_MAX: usize = 64 << 20;

// ---------------------------------------------------------------- the mirror

/// Clients' connections at once; over it, a connection is closed at once, which sends its client to the next host.
pub const HTTP_CONNECTIONS_MAX: usize = 512;
/// Reading a request's head, and keeping an idle connection.
pub const HTTP_HEAD_DEADLINE: Duration = Duration::from_secs(30);
/// A request's head, and what is written at once, in bytes: four times the longest Authorization.
pub const HTTP_BUFFER_BYTES: usize = 64 << 10;
/// From a request to the head of its answer. containerd gives up after 30 s.
pub const HTTP_ANSWER_DEADLINE: Duration = Duration::from_secs(25);
/// A question about a registry that failed after this long leaves a silence: less would take a slow upstream for a dead one.
pub const HTTP_SILENCE_AFTER: Duration = Duration::from_secs(2);
/// How long questions about a registry are short after a silence, before one may be patient again.
pub const HTTP_SILENCE_HOLD: Duration = Duration::from_secs(20);
/// The same as [`HTTP_ANSWER_DEADLINE`] in a silence, or while no origin is known: many times what a peer or a live origin needs.
pub const HTTP_SILENT_DEADLINE: Duration = Duration::from_secs(1);
/// A client that takes no byte for this long is cut off: some unpack while they read, but not this slowly.
pub const HTTP_CLIENT_STALL_MAX: Duration = Duration::from_secs(300);
/// Bytes of a refused upload that are read, so that its client sees the refusal.
pub const HTTP_DRAIN_BYTES_MAX: usize = 4 << 20;
/// The same in time.
pub const HTTP_DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Requests that the status tells of.
pub const RECENT_REQUESTS_MAX: usize = 64;
/// Offsets of one blob at which its open answers were cut, to be answered with a status the next time.
pub const CUT_OFFSETS_MAX: usize = 64;

// ---------------------------------------------------------------- the tracker

/// Swarms that a tracker remembers.
pub const TRACKER_SWARMS_MAX: usize = 262_144;
/// Peers that a tracker remembers.
pub const TRACKER_PEERS_MAX: usize = 65_536;
/// Memberships of peers in swarms, over all swarms.
pub const TRACKER_MEMBERS_MAX: usize = 4_194_304;
/// Swarms of one peer.
pub const SWARMS_PER_PEER_MAX: usize = 16_384;
/// Neighbours that a tracker remembers to have named to one member.
pub const SWARM_EDGES_MAX: usize = 128;
/// Unasked handouts that wait to be sent.
pub const PUSHES_WAITING_MAX: usize = 16_384;
/// Messages that wait to be sent to one peer; one that takes no more is let go, and comes back with a full announce.
pub const TRACKER_OUTBOX_MAX: usize = 512;
/// Announces that wait for the directory; those that send them wait with them.
pub const TRACKER_EVENTS_MAX: usize = 4096;
/// Announces of one peer in a burst.
pub const ANNOUNCE_BURST: u32 = 256;
/// Announces of one peer a second, after the burst.
pub const ANNOUNCES_PER_SEC: u32 = 32;

const _: () = {
    assert!(PIECE_BYTES_MIN.is_power_of_two() && PIECE_BYTES_MAX.is_power_of_two());
    assert!(
        BLOB_BYTES_MAX / (PIECE_BYTES_MAX as u64) <= PIECES_MAX as u64,
        "the longest blob must be cuttable"
    );
    assert!(
        (PIECES_MAX as usize) / 8 < FRAME_BYTES_MAX / 4,
        "a bitfield fits a frame"
    );
    assert!(MANIFEST_BYTES_MAX < MANIFEST_FRAME_BYTES_MAX);
    assert!(READ_BYTES_MAX >= SERVE_STEP_BYTES);
    assert!(MANIFESTS_BYTES_MAX > MANIFEST_BYTES_MAX as u64);
    assert!(VOUCHED_BYTES_MAX >= (VOUCHED_ORIGINS_MAX * MEMBERSHIP_BYTES_MAX) as u64);
    assert!(HANDOUT_PEERS_MAX >= NEIGHBOURS && LINKS_MAX > 2 * NEIGHBOURS);
    assert!(
        SOURCES_MIN <= SOURCES_START
            && SOURCES_START <= SOURCES_MAX
            && PIECES_IN_FLIGHT_PER_PEER <= PIECES_IN_FLIGHT_PER_PEER_MAX
            && SOURCES_MAX * PIECES_IN_FLIGHT_PER_PEER_MAX <= PIECES_IN_FLIGHT_MAX
    );
    assert!(UPLOAD_SLOTS <= UPLOAD_SLOTS_MAX && PIECES_IN_FLIGHT_PER_ORIGIN_MAX <= UPLOADS_MAX);
    assert!(RETRY_AFTER_MIN.as_nanos() < RETRY_AFTER_GUESS.as_nanos());
    assert!(
        FETCH_STALLED_AFTER.as_secs() <= 2,
        "a stalled source is replaced within 2 s"
    );
    assert!(FETCH_FLOOR_BYTES <= FETCH_BATCH_BYTES && READ_FLOOR_BYTES <= READ_BYTES_MAX);
    assert!(ASKS_WAITING_PER_LINK_MAX <= ASKS_PER_LINK_MAX);
    assert!(
        HTTP_ANSWER_DEADLINE.as_secs() < 30
            && OPEN_DEADLINE.as_secs() < HTTP_ANSWER_DEADLINE.as_secs(),
        "an origin's no reaches the client in time"
    );
    assert!(
        ASK_HEARD_WITHIN.as_millis() < ORIGIN_REACHED_WITHIN.as_millis()
            && ORIGIN_REACHED_WITHIN.as_millis() < HTTP_SILENCE_AFTER.as_millis(),
        "a dead origin is noticed before a slow one counts as silent"
    );
    assert!(
        HTTP_SILENT_DEADLINE.as_nanos() < HTTP_SILENCE_AFTER.as_nanos()
            && HTTP_SILENCE_AFTER.as_nanos() < HTTP_ANSWER_DEADLINE.as_nanos(),
        "only a patient question can find a silence"
    );
    assert!(AUTHORIZATION_BYTES_MAX < HTTP_BUFFER_BYTES);
    assert!(
        OPEN_DEADLINE.as_secs() < 30,
        "containerd gives up on headers after 30 s"
    );
};
