package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"testing"
)

// maxLineBytes bounds a line of a log: a verdict with some hundred reasons is tens of kilobytes.
const maxLineBytes = 4 << 20

// line is one line a process wrote. The fields are those of our log, empty where a line is not JSON or has others.
type line struct {
	text      string
	Level     string
	Msg       string
	Registry  string
	Admin     string
	Decision  string
	Digest    string
	Complete  bool
	RequestID string `json:"request_id"`
}

// says matches lines that hold text.
func says(text string) func(line) bool {
	return func(l line) bool { return strings.Contains(l.text, text) }
}

// verdicts matches the lines of verdicts on a digest.
func verdicts(digest string) func(line) bool {
	return func(l line) bool { return l.Msg == "verdict" && l.Digest == digest }
}

// journal is what a process has written, line by line. It is safe for concurrent use.
type journal struct {
	mu      sync.Mutex
	lines   []line        // guarded by mu; lines that are in it are never modified
	ended   bool          // guarded by mu
	changed chan struct{} // guarded by mu; closed, and replaced, at every change
	// each, when not nil, is told of every line before anybody else.
	each func(line)
}

func newJournal() *journal { return &journal{changed: make(chan struct{})} }

// read takes everything in, to the end.
func (j *journal) read(from io.Reader) {
	in := bufio.NewScanner(from)
	in.Buffer(make([]byte, 64<<10), maxLineBytes)
	for in.Scan() {
		l := line{text: in.Text()}
		_ = json.Unmarshal(in.Bytes(), &l) // what is not JSON is a line all the same
		if j.each != nil {
			j.each(l)
		}
		j.change(func() { j.lines = append(j.lines, l) })
	}
	j.change(func() { j.ended = true })
}

func (j *journal) change(do func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	do()
	close(j.changed)
	j.changed = make(chan struct{})
}

// count returns how many lines so far match.
func (j *journal) count(match func(line) bool) int {
	j.mu.Lock()
	defer j.mu.Unlock()
	n := 0
	for _, l := range j.lines {
		if match(l) {
			n++
		}
	}
	return n
}

// text returns everything so far.
func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var b strings.Builder
	for _, l := range j.lines {
		b.WriteString(l.text + "\n")
	}
	return b.String()
}

// await returns the first line that matches, waiting for it to be written.
func (j *journal) await(t testing.TB, what string, match func(line) bool) line {
	t.Helper()
	l, ok := j.find(t.Context(), match)
	if !ok {
		t.Fatalf("%s: no such line in\n%s", what, j.text())
	}
	return l
}

// awaitMore waits until more lines match than did before do.
func (j *journal) awaitMore(t testing.TB, what string, match func(line) bool, do func()) {
	t.Helper()
	before := j.count(match)
	do()
	seen := 0
	j.await(t, what, func(l line) bool {
		if match(l) {
			seen++
		}
		return seen > before
	})
}

// find is await for goroutines other than the test's. ok is false when the process ended or patience did.
func (j *journal) find(ctx context.Context, match func(line) bool) (l line, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for at := 0; ; {
		j.mu.Lock()
		fresh, ended, changed := j.lines[at:], j.ended, j.changed
		j.mu.Unlock()
		for _, l := range fresh {
			at++
			if match(l) {
				return l, true
			}
		}
		if ended {
			return line{}, false
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return line{}, false
		}
	}
}
