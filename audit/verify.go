package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/tidewaiter/tidewaiter/seal"
)

// Report is what a file was found to be. The zero Report is not whole.
type Report struct {
	// Whole says that every line is as it was written, in its place, and that none is missing up to the head.
	Whole bool `json:"whole"`
	// Records is how many lines hold, from the first on.
	Records uint64 `json:"records"`
	// First and Last are when the first and the last of them were written, UTC; zero for none.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Hash is the mark of the last of them, to be kept elsewhere and compared.
	Hash string `json:"hash,omitempty"`
	// Torn are the lines that were not written to their end and are closed off. They are no break; a crash explains each.
	Torn []Torn `json:"torn,omitempty"`
	// Broken is where the chain breaks; nil when Whole.
	Broken *Break `json:"broken,omitempty"`
}

// Torn is where something was not written to its end.
type Torn struct {
	Line  int   `json:"line"` // of the file, from 1
	Bytes int64 `json:"bytes"`
}

// Break is where a chain breaks.
type Break struct {
	// Line is the line of the file, from 1, that does not hold, or behind which something is missing.
	Line   int    `json:"line"`
	Reason string `json:"reason"`
}

// Verify reads the whole file at path and says whether it is as it was written with key. It may be run while a process writes.
//
// Errors: whatever reading returns; fs.ErrNotExist when there is neither the file nor a head that says there was one.
func Verify(path string, key seal.Key) (Report, error) { return verify(path, key.Derive(keyPurpose)) }

// verify is Verify with the key that lines are marked by.
func verify(path string, key seal.Key) (Report, error) {
	v := verification{key: key, at: head{mark: noMark}}
	h, headErr := readHead(v.key, path) // before the file, which then reaches as far at least
	if headErr != nil && !errors.Is(headErr, ErrBroken) {
		return Report{}, fmt.Errorf("verifying the audit log: %w", headErr)
	}
	f, err := os.Open(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && headErr == nil:
		v.report.Broken = &Break{1, "the file is gone, and its head says that there was one"}
		return v.report, nil
	case err != nil:
		return Report{}, fmt.Errorf("verifying the audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	v.head = h
	if err := v.read(f); err != nil {
		return Report{}, fmt.Errorf("verifying the audit log: %w", err)
	}
	v.conclude(headErr)
	return v.report, nil
}

// verification is the state of one Verify.
type verification struct {
	key    seal.Key
	head   head // zero when there is none that holds
	report Report
	at     head // the last line that holds
	lines  int  // lines read before this one

	// odd is what does not hold and may yet be closed off, at most maxTornBytes; nil when there is nothing. It begins in line oddLine,
	// where at ends.
	odd     []byte
	oddLine int
	// inserted says that a line that holds comes behind it, which no crash leaves.
	inserted bool
	// forked says that the line the head names is another than it names.
	forked bool
}

// read goes through the lines.
func (v *verification) read(f io.Reader) error {
	r := bufio.NewReaderSize(f, maxLineBytes+1)
	for {
		text, err := r.ReadSlice('\n')
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
		if len(text) == 0 || !v.line(text) {
			return nil
		}
		if err == nil {
			v.lines++
		}
	}
}

// line takes one line, or a part of one that is too long or at the end. It returns false when there is no use in going on.
func (v *verification) line(text []byte) bool {
	l, m, ok := decode(v.key, bytes.TrimSuffix(text, []byte("\n")))
	ok = ok && bytes.HasSuffix(text, []byte("\n")) && l.follows(v.at.sequence, v.at.mark)
	switch {
	case ok && v.odd != nil && !v.closesOff(l):
		v.inserted = true // this line holds, and what is in front of it does not
		return false
	case ok:
		if v.odd != nil {
			v.report.Torn = append(v.report.Torn, Torn{v.oddLine, l.Torn.Bytes})
		}
		end := v.at.offset + int64(len(v.odd)+len(text))
		v.odd = nil
		v.hold(l, m, end)
		return true
	}
	if v.odd == nil {
		v.odd, v.oddLine = []byte{}, v.lines+1
	}
	v.odd = append(v.odd, text...)
	return len(v.odd) <= maxTornBytes
}

// hold counts l as one that holds.
func (v *verification) hold(l line, m mark, end int64) {
	v.at = head{l.Sequence, end, m}
	v.report.Records, v.report.Last, v.report.Hash = l.Sequence, l.Time, string(m)
	if l.Sequence == 1 {
		v.report.First = l.Time
	}
	if l.Sequence == v.head.sequence && m != v.head.mark {
		v.forked = true
	}
}

// closesOff reports whether l says, of exactly what did not hold, that it was not written to its end.
func (v *verification) closesOff(l line) bool {
	n := int64(len(v.odd)) - 1 // behind it a line end was added
	if l.Event.Event != eventTorn || l.Torn == nil || l.Torn.Offset != v.at.offset || l.Torn.Bytes != n || v.odd[n] != '\n' {
		return false
	}
	sum := sha256.Sum256(v.odd[:n])
	return l.Torn.SHA256 == hex.EncodeToString(sum[:])
}

// conclude says what came of it. What does not hold behind everything the head knows of is being written, or was when a crash came;
// the next start closes it off.
func (v *verification) conclude(headErr error) {
	switch {
	case v.odd != nil && (headErr != nil || v.inserted || v.at.sequence < v.head.sequence || len(v.odd) > maxTornBytes):
		v.report.Broken = &Break{v.oddLine, "the line was altered, moved, or written with another key, or what was in front of it is gone"}
	case headErr != nil:
		v.report.Broken = &Break{max(v.lines, 1), "the head is missing, was altered, or was written with another key"}
	case v.at.sequence < v.head.sequence:
		v.report.Broken = &Break{v.lines + 1, fmt.Sprintf("%d lines are missing at the end", v.head.sequence-v.at.sequence)}
	case v.forked:
		v.report.Broken = &Break{v.lines, "it is not the file its head belongs to"}
	default:
		if v.odd != nil {
			v.report.Torn = append(v.report.Torn, Torn{v.oddLine, int64(len(v.odd))})
		}
		v.report.Whole = true
	}
}
