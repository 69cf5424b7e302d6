package audit

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// maxBatch is how many events one write holds at most: some 100 KB, which a disk takes as quickly as one.
const maxBatch = 256

// maxTornBytes bounds what a crash can leave unfinished: one batch of the longest lines. More than that is no crash.
const maxTornBytes = maxBatch * maxLineBytes

// writer writes the file. One goroutine, which close waits for, owns everything but the channel.
type writer struct {
	file, headFile *os.File
	key            seal.Key
	now            func() time.Time
	log            *slog.Logger

	at     head  // the last line
	failed error // why nothing more can be written; nil while it can

	pending chan pending
	// closing is closed when nothing more is taken; done when the goroutine has ended, with what it left in ended.
	closing   chan struct{}
	closeOnce sync.Once
	done      chan struct{}
	ended     error
}

// pending is an event that somebody waits for.
type pending struct {
	event Event
	done  chan error // takes one
}

// openWriter opens the files, takes up the chain, and starts the goroutine.
func openWriter(o Options) (_ *writer, err error) {
	w := &writer{
		key: o.Key.Derive(keyPurpose), now: o.Now, log: o.Log,
		pending: make(chan pending, maxBatch), closing: make(chan struct{}), done: make(chan struct{}),
	}
	if w.file, err = os.OpenFile(o.Path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.file.Close())
			if w.headFile != nil {
				err = errors.Join(err, w.headFile.Close())
			}
		}
	}()
	if err := lock(w.file); err != nil {
		return nil, err
	}
	if err := w.takeUp(o.Path); err != nil {
		return nil, err
	}
	go w.run()
	return w, nil
}

// takeUp finds the end of the chain, closes off what is torn, and writes the line that says the file was taken up.
func (w *writer) takeUp(path string) error {
	info, err := w.file.Stat()
	if err != nil {
		return err
	}
	w.at = head{mark: noMark}
	opening, found := line{Event: Event{Event: eventOpened}}, torn{}
	h, err := readHead(w.key, path)
	switch {
	case errors.Is(err, errNoHead) && info.Size() == 0:
		opening.Event.Event = eventBegun
	case err != nil: // a file that lost its head may have lost its end
		return err
	default:
		if found, err = w.find(h, info.Size()); err != nil {
			return err
		}
	}
	if w.headFile, err = os.OpenFile(headPath(path), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if found.Bytes > 0 {
		w.log.Warn("the audit log ends in a line that was not written to its end; it is closed off", "path", path, "offset", found.Offset, "bytes", found.Bytes)
		if err := w.closeOff(found); err != nil {
			return err
		}
	}
	if err := w.write([]line{opening}); err != nil {
		return err
	}
	w.log.Info("the audit log is open", "path", path, "seq", w.at.sequence, "hash", string(w.at.mark))
	return errors.Join(w.headFile.Sync(), syncDir(filepath.Dir(path)))
}

// find goes from the line the head names to the last that holds, and returns what is behind it.
func (w *writer) find(h head, size int64) (torn, error) {
	if h.offset > size {
		return torn{}, fmt.Errorf("%d bytes are missing at its end: %w", h.offset-size, ErrBroken)
	}
	if err := w.checkHead(h); err != nil {
		return torn{}, err
	}
	w.at = h
	r := bufio.NewReaderSize(io.NewSectionReader(w.file, h.offset, size-h.offset), maxLineBytes+1)
	for {
		text, err := r.ReadSlice('\n')
		if err != nil { // the end, or a line longer than any
			break
		}
		l, m, ok := decode(w.key, text[:len(text)-1])
		if !ok || !l.follows(w.at.sequence, w.at.mark) {
			break
		}
		w.at = head{l.Sequence, w.at.offset + int64(len(text)), m}
	}
	rest := torn{Offset: w.at.offset, Bytes: size - w.at.offset}
	if rest.Bytes > maxTornBytes {
		return torn{}, fmt.Errorf("%d bytes behind line %d are none of its lines: %w", rest.Bytes, w.at.sequence, ErrBroken)
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(w.file, rest.Offset, rest.Bytes)); err != nil {
		return torn{}, err
	}
	rest.SHA256 = hex.EncodeToString(sum.Sum(nil))
	return rest, nil
}

// checkHead reports whether the line the head names is where it says.
func (w *writer) checkHead(h head) error {
	from := max(0, h.offset-maxLineBytes-1)
	content := make([]byte, h.offset-from)
	if _, err := w.file.ReadAt(content, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	n := len(content)
	if n == 0 || content[n-1] != '\n' {
		return fmt.Errorf("its last line is not where its head says: %w", ErrBroken)
	}
	begin := n - 1
	for begin > 0 && content[begin-1] != '\n' {
		begin--
	}
	l, m, ok := decode(w.key, content[begin:n-1])
	if !ok || l.Sequence != h.sequence || m != h.mark {
		return fmt.Errorf("its last line is not the one its head names: %w", ErrBroken)
	}
	return nil
}

// closeOff ends what is torn, and writes the line that says so.
func (w *writer) closeOff(found torn) error {
	end := found.Offset + found.Bytes
	if _, err := w.file.WriteAt([]byte("\n"), end); err != nil {
		return err
	}
	w.at.offset = end + 1
	return w.write([]line{{Event: Event{Event: eventTorn, Reason: "what is in front of this line was not written to its end"}, Torn: &found}})
}

// syncDir makes new names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// record hands e to the goroutine and waits for it.
func (w *writer) record(ctx context.Context, e Event) error {
	select {
	case <-w.closing: // of several that can be, a select takes any
		return ErrClosed
	default:
	}
	p := pending{event: e, done: make(chan error, 1)}
	select {
	case w.pending <- p:
	case <-w.closing:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-p.done:
		return err
	case <-w.done: // it may have been the last, or too late
		select {
		case err := <-p.done:
			return err
		default:
			return ErrClosed
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run writes what is pending; whatever gathers while the last of it is written is written at once.
func (w *writer) run() {
	defer close(w.done)
	for {
		select {
		case first := <-w.pending:
			w.writeBatch(w.gather(first))
			continue
		case <-w.closing:
		}
		select { // nothing more is taken, and what was is finished
		case first := <-w.pending:
			w.writeBatch(w.gather(first))
		default:
			w.ended = w.finish()
			return
		}
	}
}

// gather returns first and what else is pending.
func (w *writer) gather(first pending) []pending {
	batch := []pending{first}
	for len(batch) < maxBatch {
		select {
		case p := <-w.pending:
			batch = append(batch, p)
		default:
			return batch
		}
	}
	return batch
}

func (w *writer) writeBatch(batch []pending) {
	lines := make([]line, len(batch))
	for i, p := range batch {
		lines[i].Event = p.event
	}
	err := w.write(lines)
	for _, p := range batch {
		p.done <- err
	}
}

// write adds lines to the file and returns once they are on disk. At each step a crash leaves: before the write, nothing; during it,
// a torn end that is closed off at the next start; after the sync, lines the head does not know yet, which is no harm.
func (w *writer) write(lines []line) error {
	if w.failed != nil {
		return w.failed
	}
	next, text := w.at, []byte(nil)
	for _, l := range lines {
		l.Sequence, l.Time, l.Previous = next.sequence+1, w.now().UTC(), string(next.mark)
		encoded, m, err := l.encode(w.key)
		if err != nil {
			return err
		}
		text = append(text, encoded...)
		next = head{l.Sequence, next.offset + int64(len(encoded)), m}
	}
	if _, err := w.file.WriteAt(text, w.at.offset); err != nil {
		if cutErr := w.file.Truncate(w.at.offset); cutErr != nil { // a full disk: what was written of it must not stay in the way
			w.failed = errors.Join(err, cutErr)
			w.log.Error("the audit log takes no more: what was written in part stays behind", "err", w.failed)
			return w.failed
		}
		return err
	}
	if err := w.file.Sync(); err != nil { // nobody can tell what is on disk now, and asking again would not say
		w.failed = err
		w.log.Error("the audit log takes no more until the next start", "err", err)
		return err
	}
	w.at = next
	if _, err := w.headFile.WriteAt(next.encode(w.key), 0); err != nil {
		w.failed = err // the lines are on disk; without a head, cutting them off would go unseen
		w.log.Error("the audit log takes no more: its head cannot be written", "err", err)
		return err
	}
	return nil
}

// finish writes the last line and closes the files.
func (w *writer) finish() error {
	err := w.write([]line{{Event: Event{Event: eventClosed}}})
	if err == nil {
		w.log.Info("the audit log is closed", "seq", w.at.sequence, "hash", string(w.at.mark))
	}
	return errors.Join(err, w.headFile.Sync(), w.headFile.Close(), w.file.Close())
}

func (w *writer) close() error {
	w.closeOnce.Do(func() { close(w.closing) })
	<-w.done
	return w.ended
}
