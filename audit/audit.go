// Package audit owns the record of who did what and who was kept from it: one file, one line of JSON for each event, only ever added to.
//
// Every line carries a mark over itself and over the mark of the line before, by a key that is not in the file. What is detected, by
// [Verify], is whatever somebody without the key does to the file: a line changed, taken out, put in or moved, and lines cut off the
// end, since beside the file lies a head that says which line was the last. What is not: putting back an older copy of both, and
// taking both away altogether; against that only something elsewhere helps, such as the sequence numbers and marks that are logged
// as the file is opened and closed, or lines shipped to another machine. Whoever has the key can write any history.
//
// It promises that an event is on disk before [Log.Record] returns. It must not lose one it accepted, hold two writers, or mend what
// is broken.
package audit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// Errors of opening and recording.
var (
	// ErrBroken says that the file was altered, or that it was written with another key.
	ErrBroken = errors.New("the audit log is broken")
	// ErrInUse says that another process writes the file.
	ErrInUse = errors.New("the audit log is in use by another process")
	// ErrClosed says that the log takes no more events.
	ErrClosed = errors.New("the audit log is closed")
)

// maxFieldBytes bounds each text of an event: names of repositories have 255 bytes, those of callers at most an issuer's URL and a
// subject of 255. A longer one is cut, since an event that is known in part is worth more than none.
const maxFieldBytes = 1024

// Event is something that happened. Texts may have been written by clients.
type Event struct {
	// Event says what kind it is, in lower case with dots: "access.refused". Kinds that begin with "audit." are this package's own.
	Event string `json:"event"`
	// Caller is who did it, as access names callers; empty for the proxy itself.
	Caller     string `json:"caller,omitempty"`
	Address    string `json:"address,omitempty"`
	Action     string `json:"action,omitempty"`
	Repository string `json:"repository,omitempty"`
	Tag        string `json:"tag,omitempty"`
	Digest     string `json:"digest,omitempty"`
	// Result is what came of it: "allowed", "refused".
	Result string `json:"result,omitempty"`
	// Reason is why, for a person.
	Reason string `json:"reason,omitempty"`
	// Inputs identify what a verdict was made from, as the ledger has it, or what is in force now.
	Inputs string `json:"inputs,omitempty"`
	// RequestID is the id of the request in the log of the proxy.
	RequestID string `json:"request_id,omitempty"`
}

// cut returns e with every text within its bound.
func (e Event) cut() Event {
	for _, field := range []*string{
		&e.Event, &e.Caller, &e.Address, &e.Action, &e.Repository, &e.Tag, &e.Digest, &e.Result, &e.Reason, &e.Inputs, &e.RequestID,
	} {
		if len(*field) > maxFieldBytes {
			*field = strings.ToValidUTF8((*field)[:maxFieldBytes], "") + "…"
		}
	}
	return e
}

// Options are what a Log is opened from. Log is needed, and Key with Path.
type Options struct {
	// Path is the file, made with mode 0600 if it is not there; beside it lies the head, named Path with ".head". Empty: events go to
	// Log alone.
	Path string
	// Key is what lines are marked by. With another one the file counts as broken.
	Key seal.Key
	Log *slog.Logger
	// Now is the clock; nil for time.Now.
	Now func() time.Time
}

// keyPurpose sets the key apart from those of everything else that is sealed.
const keyPurpose = "audit"

// Log records events. It is made by [Open] and safe for concurrent use.
type Log struct {
	log    *slog.Logger
	path   string
	writer *writer // nil when there is no file
	// verifying is held, by sending to it, while the whole file is read.
	verifying chan struct{}
}

// Open opens the file and takes up the chain where it ends. A last line that was not written to its end, as a crash leaves it, is
// closed off by a line that says so. It reads the end of the file alone; [Verify] reads the whole.
//
// Errors: [ErrBroken], [ErrInUse], and whatever the files return.
func Open(o Options) (*Log, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{log: o.Log, path: o.Path, verifying: make(chan struct{}, 1)}
	if o.Path == "" {
		return l, nil
	}
	w, err := openWriter(o)
	if err != nil {
		return nil, fmt.Errorf("opening the audit log %s: %w", o.Path, err)
	}
	l.writer = w
	return l, nil
}

// Durable reports whether there is a file. Where there is none, events are only logged, which somebody should be told at start.
func (l *Log) Durable() bool { return l.writer != nil }

// Record returns once e is on disk; many at once share one write. Without a file it logs e. After an error e may or may not be on
// record.
//
// Errors: [ErrClosed], the context's, and whatever writing returns: then nothing that must be on record may be done.
func (l *Log) Record(ctx context.Context, e Event) error {
	e = e.cut()
	if l.writer == nil {
		l.log.InfoContext(ctx, "audit", "event", e.Event, "caller", e.Caller, "client", e.Address, "action", e.Action, "repo", e.Repository,
			"tag", e.Tag, "digest", e.Digest, "result", e.Result, "reason", e.Reason, "inputs", e.Inputs, "request_id", e.RequestID)
		return nil
	}
	if err := l.writer.record(ctx, e); err != nil {
		return fmt.Errorf("recording %s: %w", e.Event, err)
	}
	return nil
}

// Close records that it ends, and closes the file. Events that are being recorded are finished.
func (l *Log) Close() error {
	if l.writer == nil {
		return nil
	}
	return l.writer.close()
}
