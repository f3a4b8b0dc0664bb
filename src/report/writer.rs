//! Writing as a task of its own: a thread behind a bounded queue, so that a reader that does not read
//! stops nobody but that thread.
//!
//! Owns the order of lines, what is dropped, and when everything is written. Knows no stream by name.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use indicatif::MultiProgress;

/// How long a stream that is not ready (`O_NONBLOCK`) is left alone.
const NOT_READY: Duration = Duration::from_millis(10);
/// How often [`Writer::drain`] asks whether to give up.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How much may wait for the reader before lines are dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) lines: usize,
    pub(super) bytes: usize,
}

/// Where lines end up.
pub(super) struct Sink {
    pub(super) stream: Box<dyn Write + Send>,
    /// The bars, if they are on the same terminal: a line must not tear them.
    pub(super) bars: Option<MultiProgress>,
    /// The line for a number of dropped lines.
    pub(super) dropped: Box<dyn Fn(u64) -> String + Send>,
    /// Hears of the first line of a row that could not be written.
    pub(super) failed: fn(&io::Error),
}

/// Writes to one sink. Clones write to the same one.
#[derive(Clone)]
pub(super) struct Writer {
    queue: Arc<Queue>,
    sink: usize,
}

/// What is not written yet.
pub(super) struct Pending {
    /// Whether a result is among it.
    pub(super) has_result: bool,
    /// For how long the reader has taken nothing, counted from the start of the wait.
    pub(super) stuck: Duration,
}

struct Queue {
    capacity: Capacity,
    state: Mutex<State>,
    /// Something to write, something written, or nothing left.
    changed: Condvar,
}

struct State {
    entries: VecDeque<Entry>,
    bytes: usize,
    /// Lines dropped since the queue was last taken, for each sink.
    dropped: Vec<u64>,
    /// Whether the thread has taken entries that are not all written.
    is_writing: bool,
    /// Results that are not written.
    results: usize,
    /// When the reader last took something.
    moved: Instant,
    /// Why a result could not be written.
    failure: Option<io::Error>,
}

enum Entry {
    Line { sink: usize, text: String, is_result: bool },
    Draw(Box<dyn FnOnce() + Send>),
}

impl Writer {
    /// Starts one thread for these sinks, which share a queue and so keep their lines in order. The thread
    /// lives as long as the process.
    pub(super) fn start<const N: usize>(capacity: Capacity, sinks: [Sink; N]) -> [Self; N] {
        let state = State {
            entries: VecDeque::new(),
            bytes: 0,
            dropped: vec![0; N],
            is_writing: false,
            results: 0,
            moved: Instant::now(),
            failure: None,
        };
        let queue = Arc::new(Queue { capacity, state: Mutex::new(state), changed: Condvar::new() });
        let writers = std::array::from_fn(|sink| Self { queue: Arc::clone(&queue), sink });
        thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || queue.write_forever(sinks.map(Outlet::new)))
            .expect("the system has a thread left");
        writers
    }

    /// Writes a line soon, or drops and counts it while the queue is full.
    pub(super) fn offer(&self, text: String) {
        let mut state = self.queue.lock();
        let Capacity { lines, bytes } = self.queue.capacity;
        if state.entries.len() >= lines || state.bytes >= bytes {
            state.dropped[self.sink] += 1;
            return;
        }
        self.push(state, text, false);
    }

    /// Writes a line soon, however full the queue is.
    pub(super) fn insist(&self, text: String) {
        self.push(self.queue.lock(), text, false);
    }

    /// The same for a result: [`Writer::drain`] tells results apart, and reports why one is lost.
    pub(super) fn result(&self, text: String) {
        self.push(self.queue.lock(), text, true);
    }

    fn push(&self, mut state: MutexGuard<'_, State>, text: String, is_result: bool) {
        state.results += usize::from(is_result);
        state.bytes += text.len();
        state.entries.push_back(Entry::Line { sink: self.sink, text, is_result });
        self.queue.changed.notify_all();
    }

    /// Draws between two lines.
    pub(super) fn draw(&self, draw: impl FnOnce() + Send + 'static) {
        self.queue.lock().entries.push_back(Entry::Draw(Box::new(draw)));
        self.queue.changed.notify_all();
    }

    /// Waits until everything is written, or `gives_up` returns true.
    ///
    /// # Errors
    /// When a result could not be written.
    pub(super) fn drain(&self, mut gives_up: impl FnMut(Pending) -> bool) -> io::Result<()> {
        let started = Instant::now();
        let mut state = self.queue.lock();
        while state.is_writing || !state.entries.is_empty() {
            let stuck = state.moved.max(started).elapsed();
            if gives_up(Pending { has_result: state.results > 0, stuck }) {
                break;
            }
            let waited = self.queue.changed.wait_timeout(state, ASK_EVERY);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.failure.take().map_or(Ok(()), Err)
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_forever<const N: usize>(&self, mut outlets: [Outlet; N]) {
        loop {
            let (entries, dropped) = self.take();
            for entry in entries {
                match entry {
                    Entry::Draw(draw) => draw(),
                    Entry::Line { sink, text, is_result } => {
                        let written = outlets[sink].write(&text, || self.moved());
                        self.written(&mut outlets[sink], is_result, written);
                    }
                }
            }
            // All that was dropped came after the queue was full: this is its place.
            for (outlet, count) in outlets.iter_mut().zip(dropped).filter(|(_, count)| *count > 0) {
                let line = (outlet.sink.dropped)(count);
                let written = outlet.write(&line, || self.moved());
                self.written(outlet, false, written);
            }
        }
    }

    /// Everything that is to be written, as soon as there is something.
    fn take(&self) -> (VecDeque<Entry>, Vec<u64>) {
        let mut state = self.lock();
        state.is_writing = false;
        self.changed.notify_all();
        while state.entries.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.is_writing = true;
        state.bytes = 0;
        let none = vec![0; state.dropped.len()];
        (mem::take(&mut state.entries), mem::replace(&mut state.dropped, none))
    }

    fn moved(&self) {
        self.lock().moved = Instant::now();
    }

    fn written(&self, outlet: &mut Outlet, is_result: bool, written: io::Result<()>) {
        match written {
            Ok(()) => outlet.is_failing = false,
            Err(error) if is_result => {
                self.lock().failure.get_or_insert(error);
            }
            // Without the lock: it may log, which comes back here.
            Err(error) if !mem::replace(&mut outlet.is_failing, true) => {
                (outlet.sink.failed)(&error);
            }
            Err(_) => {}
        }
        self.lock().results -= usize::from(is_result);
    }
}

/// A sink and how it does.
struct Outlet {
    sink: Sink,
    /// Whether its reader has closed it: what is written then is of no use to anybody.
    is_closed: bool,
    /// Whether the last line could not be written.
    is_failing: bool,
}

impl Outlet {
    const fn new(sink: Sink) -> Self {
        Self { sink, is_closed: false, is_failing: false }
    }

    fn write(&mut self, text: &str, moved: impl Fn()) -> io::Result<()> {
        if self.is_closed {
            return Ok(());
        }
        let stream = &mut self.sink.stream;
        let written = match &self.sink.bars {
            Some(bars) => bars.suspend(|| write_whole(stream, text.as_bytes(), moved)),
            None => write_whole(stream, text.as_bytes(), moved),
        };
        match written {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                self.is_closed = true;
                Ok(())
            }
            written => written,
        }
    }
}

/// As [`Write::write_all`], but says so whenever the reader has taken something.
fn write_whole(stream: &mut impl Write, mut bytes: &[u8], moved: impl Fn()) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                moved();
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(NOT_READY),
            Err(error) => return Err(error),
        }
    }
    stream.flush()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, PipeReader, pipe},
        iter,
    };

    use super::*;

    const CAPACITY: Capacity = Capacity { lines: 100, bytes: 10_000 };

    fn sink(stream: impl Write + Send + 'static) -> Sink {
        Sink {
            stream: Box::new(stream),
            bars: None,
            dropped: Box::new(|count| format!("{count} dropped\n")),
            failed: |_| {},
        }
    }

    fn piped() -> (Writer, PipeReader) {
        let (reader, stream) = pipe().expect("a pipe");
        let [writer] = Writer::start(CAPACITY, [sink(stream)]);
        (writer, reader)
    }

    /// Fills the pipe, and waits until the thread is stuck with an empty queue.
    fn stuff(writer: &Writer) -> String {
        let text = "x".repeat(1 << 20) + "\n";
        writer.insist(text.clone());
        while !writer.queue.lock().entries.is_empty() {
            thread::yield_now();
        }
        text
    }

    fn lines(reader: PipeReader) -> impl Iterator<Item = String> {
        BufReader::new(reader).lines().map(|line| line.expect("a line") + "\n")
    }

    #[test]
    fn what_a_full_queue_cannot_hold_is_dropped_and_counted_in_its_place() {
        let (writer, reader) = piped();
        let first = stuff(&writer);
        (0..130).for_each(|n| writer.offer(format!("{n}\n")));
        writer.insist("error\n".to_owned());
        let mut lines = lines(reader);
        let kept = (0..100).map(|n| format!("{n}\n"));
        let expected =
            iter::once(first).chain(kept).chain(["error\n".to_owned(), "30 dropped\n".to_owned()]);
        assert!(lines.by_ref().take(103).eq(expected));
        writer.offer("it flows\n".to_owned());
        assert_eq!(lines.next().as_deref(), Some("it flows\n"));
    }

    #[test]
    fn long_lines_fill_the_queue_too() {
        let (writer, _reader) = piped();
        stuff(&writer);
        (0..130).for_each(|_| writer.offer("y".repeat(999) + "\n"));
        assert_eq!(writer.queue.lock().dropped, [120]);
    }

    #[test]
    fn a_result_is_never_dropped_and_is_waited_for() {
        let (writer, reader) = piped();
        stuff(&writer);
        (0..500).for_each(|n| writer.result(format!("{n}\n")));
        // As long as nobody reads, it says so.
        let mut asked = 0;
        let drained = writer.drain(|pending| {
            asked += 1;
            assert!(pending.has_result);
            asked > 1 && pending.stuck > Duration::ZERO
        });
        assert!(drained.is_ok() && asked > 1);
        let reading = thread::spawn(move || lines(reader).take(501).count());
        writer.drain(|_| false).expect("all is written");
        assert_eq!(reading.join().expect("it was read"), 501);
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is_one() {
        let (writer, reader) = piped();
        drop(reader);
        writer.result("1\n".to_owned());
        writer.drain(|_| false).expect("a closed pipe is no failure");

        let full = std::fs::File::create("/dev/full").expect("Linux has it");
        let [writer] = Writer::start(CAPACITY, [sink(full)]);
        writer.result("1\n".to_owned());
        let failure = writer.drain(|_| false).expect_err("there is no room");
        assert_eq!(failure.kind(), ErrorKind::StorageFull);
        writer.offer("2\n".to_owned());
        writer.drain(|_| false).expect("only results matter");
    }

    #[test]
    fn two_streams_that_share_a_queue_keep_their_lines_in_order() {
        let (reader, stream) = pipe().expect("a pipe");
        let other = stream.try_clone().expect("a clone");
        let [one, two] = Writer::start(CAPACITY, [sink(stream), sink(other)]);
        for n in 0..50 {
            [&one, &two][n % 2].offer(format!("{n}\n"));
        }
        assert!(lines(reader).take(50).eq((0..50).map(|n| format!("{n}\n"))));
    }
}
