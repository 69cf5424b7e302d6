package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// Errors of looking at the log.
var (
	// ErrNoFile says that events go to the process's own log alone, so that there is nothing to look at.
	ErrNoFile = errors.New("there is no audit log but the process's own log")
	// ErrPosition says that a Before is not what a page said was next, or is no longer there.
	ErrPosition = errors.New("it is not a position in the audit log")
)

// Bounds of looking at the end of the log.
const (
	MaxRecent = 500
	// recentChunkBytes is how much is read at once: some lines of any length, and hundreds of the usual one.
	recentChunkBytes = 256 << 10
	// maxRecentBytes bounds what is read for one page: where a query leaves most lines out, those of some 20,000 events.
	maxRecentBytes = 8 << 20
)

// Entry is a line of the log. Its mark was checked.
type Entry struct {
	Sequence uint64 `json:"seq"`
	// Time is when it was written, UTC.
	Time time.Time `json:"time"`
	Event
	// Hash is the line's mark, which Verify and the process's own log name too.
	Hash string `json:"hash"`
}

// Query says which entries to return.
type Query struct {
	// Before is the Next of the page before this one; empty for the newest entries.
	Before string
	// N is how many to return, from 1 to [MaxRecent].
	N int
	// Wanted says which events; nil for all.
	Wanted func(Event) bool
}

// Page is a part of the log.
type Page struct {
	// Entries are the newest first; never nil.
	Entries []Entry `json:"entries"`
	// Next, if not empty, asks for those before. A page may be shorter than asked for, or empty, and have one.
	Next string `json:"next,omitempty"`
	// Broken, if not empty, says why nothing follows: what is in front of the entries is not as it was written.
	Broken string `json:"broken,omitempty"`
}

// Recent returns the last entries of the log that q asks for, and never more than the process has written so far. It looks at each line it
// returns and at its place behind the one before; [Log.Verify] looks at all.
//
// Errors: [ErrNoFile], [ErrPosition], and whatever reading returns. A file that was altered is no error but a Page that says so.
func (l *Log) Recent(ctx context.Context, q Query) (Page, error) {
	if l.writer == nil {
		return Page{}, ErrNoFile
	}
	page := Page{Entries: []Entry{}}
	h, err := readHead(l.writer.key, l.path)
	if errors.Is(err, ErrBroken) {
		page.Broken = err.Error()
		return page, nil
	}
	if err != nil {
		return Page{}, fmt.Errorf("reading the audit log: %w", err)
	}
	f, err := os.Open(l.path)
	if err != nil {
		return Page{}, fmt.Errorf("reading the audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	r := &recent{query: q, key: l.writer.key, file: f, end: h.offset, page: page}
	if q.Before != "" {
		if r.end, err = strconv.ParseInt(q.Before, 10, 64); err != nil || r.end < 1 || r.end > h.offset {
			return Page{}, ErrPosition
		}
	}
	if err := r.read(ctx); err != nil {
		return Page{}, fmt.Errorf("reading the audit log: %w", err)
	}
	return r.page, nil
}

// Verify is [Verify] of the file that is being written. One verification runs at a time, since each reads the whole file; others wait.
//
// Errors: [ErrNoFile], the context's, those of [Verify].
func (l *Log) Verify(ctx context.Context) (Report, error) {
	if l.writer == nil {
		return Report{}, ErrNoFile
	}
	select {
	case l.verifying <- struct{}{}:
	case <-ctx.Done():
		return Report{}, ctx.Err()
	}
	defer func() { <-l.verifying }()
	return verify(l.path, l.writer.key)
}

// recent reads lines from an end towards the beginning.
type recent struct {
	query Query
	key   seal.Key
	file  io.ReaderAt
	// end is where the line ends that is looked at next.
	end int64
	// after is the line behind it; zero for none that was looked at.
	after line
	page  Page
}

// read fills the page.
func (r *recent) read(ctx context.Context) error {
	limit := max(0, r.end-maxRecentBytes)
	for r.end > limit && len(r.page.Entries) < r.query.N && r.page.Broken == "" {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := r.chunk(); err != nil {
			return err
		}
	}
	if r.end > 0 && r.page.Broken == "" {
		r.page.Next = strconv.FormatInt(r.end, 10)
	}
	return nil
}

// chunk looks at the lines of the bytes before the end, as far as they are whole and wanted.
func (r *recent) chunk() error {
	from := max(0, r.end-recentChunkBytes)
	text := make([]byte, r.end-from)
	if _, err := r.file.ReadAt(text, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	for last := r.end; r.end > from && len(r.page.Entries) < r.query.N; last = r.end {
		text = text[:r.end-from]
		begin := bytes.LastIndexByte(text[:len(text)-1], '\n') + 1
		if begin == 0 && from > 0 && len(text) <= maxLineBytes {
			return nil // it begins in front of what was read
		}
		if !r.line(text[begin:], from+int64(begin)) {
			return r.stop()
		}
		if r.end >= last { // only a line of ours could say so
			return r.stop()
		}
	}
	return nil
}

// line takes the line that begins there, with its end. It returns false when it does not hold.
func (r *recent) line(text []byte, begin int64) bool {
	l, m, ok := decode(r.key, bytes.TrimSuffix(text, []byte("\n")))
	if !ok || !bytes.HasSuffix(text, []byte("\n")) || r.after.Sequence != 0 && !r.after.follows(l.Sequence, m) {
		return false
	}
	r.after, r.end = l, begin
	if l.Torn != nil { // what is in front of it was not written to its end, and is passed over
		r.end = l.Torn.Offset
	}
	if r.query.Wanted == nil || r.query.Wanted(l.Event) {
		r.page.Entries = append(r.page.Entries, Entry{l.Sequence, l.Time, l.Event, string(m)})
	}
	return true
}

// stop ends at a line that does not hold. Where it is the first, somebody may have asked for the middle of one.
func (r *recent) stop() error {
	if r.after.Sequence == 0 && r.query.Before != "" {
		return ErrPosition
	}
	r.page.Broken = "the end of the file was altered"
	if r.after.Sequence != 0 {
		r.page.Broken = fmt.Sprintf("what is in front of line %d was altered, moved, or is gone", r.after.Sequence)
	}
	return nil
}
