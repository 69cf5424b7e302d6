package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/seal"
)

func newKey(t testing.TB, b byte) seal.Key {
	t.Helper()
	secret := bytes.Repeat([]byte{b}, 32)
	secret[0]++
	key, err := seal.NewKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func now() time.Time { return time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC) }

// file is an audit log on disk.
type file struct {
	path string
	key  seal.Key
	log  bytes.Buffer
}

func newFile(t testing.TB) *file {
	return &file{path: filepath.Join(t.TempDir(), "audit.jsonl"), key: newKey(t, 'k')}
}

func (f *file) open() (*audit.Log, error) {
	return audit.Open(audit.Options{Path: f.path, Key: f.key, Log: slog.New(slog.NewTextHandler(&f.log, nil)), Now: now})
}

// write opens the log, records so many events, and closes it.
func (f *file) write(t testing.TB, n int) {
	t.Helper()
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := l.Record(t.Context(), audit.Event{Event: "access.refused", Caller: fmt.Sprintf("user:%d", i), Repository: "apps/web"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// crash opens the log, records so many events, and leaves the files as a process that is killed does.
func (f *file) crash(t testing.TB, n int) {
	t.Helper()
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		if err := l.Record(t.Context(), audit.Event{Event: "access.allowed"}); err != nil {
			t.Fatal(err)
		}
	}
	content, head := f.content(t), f.headContent(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f.put(t, content)
	f.putHead(t, head)
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func (f *file) content(t testing.TB) []byte     { t.Helper(); return read(t, f.path) }
func (f *file) headContent(t testing.TB) []byte { t.Helper(); return read(t, f.path+".head") }

func (f *file) put(t testing.TB, content []byte) {
	t.Helper()
	if err := os.WriteFile(f.path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *file) putHead(t testing.TB, content []byte) {
	t.Helper()
	if err := os.WriteFile(f.path+".head", content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *file) verify(t testing.TB) audit.Report {
	t.Helper()
	report, err := audit.Verify(f.path, f.key)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestRecord(t *testing.T) {
	f := newFile(t)
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	if !l.Durable() {
		t.Error("a file is not durable")
	}
	e := audit.Event{
		Event: "access.refused", Caller: "user:a\n{\"seq\":9}", Address: "192.0.2.1", Action: "push", Repository: "apps/web", Tag: "1.0",
		Digest: "sha256:x", Result: "refused", Reason: "not granted", RequestID: "R1",
	}
	if err := l.Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(f.content(t)), "\n"), "\n") // on disk by now
	if len(lines) != 2 {
		t.Fatalf("got %d lines, want 2: %q", len(lines), lines)
	}
	var got map[string]any
	if err := json.Unmarshal([]byte(lines[1]), &got); err != nil {
		t.Fatal(err)
	}
	var before map[string]any
	if err := json.Unmarshal([]byte(lines[0]), &before); err != nil {
		t.Fatal(err)
	}
	if got["prev"] != before["hash"] || got["hash"] == got["prev"] {
		t.Errorf("lines are not chained: %v after %v", got, before)
	}
	delete(got, "prev")
	delete(got, "hash")
	want := map[string]any{
		"seq": 2.0, "time": "2026-05-04T03:02:01Z", "event": "access.refused", "caller": "user:a\n{\"seq\":9}", "address": "192.0.2.1", "action": "push",
		"repository": "apps/web", "tag": "1.0", "digest": "sha256:x", "result": "refused", "reason": "not granted", "request_id": "R1",
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("line (-got +want):\n%s", diff)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if err := l.Record(t.Context(), e); !errors.Is(err, audit.ErrClosed) {
		t.Errorf("after the end: got %v", err)
	}
	if info, err := os.Stat(f.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v", info.Mode(), err)
	}
	if report := f.verify(t); !report.Whole || report.Records != 3 || !report.First.Equal(now()) {
		t.Errorf("got %+v", report)
	}
}

func TestLongTextsAreCut(t *testing.T) {
	f := newFile(t)
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("\x00", 1<<20)
	if err := l.Record(t.Context(), audit.Event{Event: long, Caller: long, Address: long, Action: long, Repository: long, Tag: long, Digest: long, Result: long, Reason: long, Inputs: long, RequestID: long}); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if report := f.verify(t); !report.Whole || report.Records != 3 {
		t.Errorf("got %+v", report)
	}
}

func TestManyAtOnce(t *testing.T) {
	f := newFile(t)
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	var recording sync.WaitGroup
	for range 50 {
		recording.Go(func() {
			for range 3 { // each waits for the disk
				if err := l.Record(t.Context(), audit.Event{Event: "access.allowed"}); err != nil {
					t.Error(err)
				}
				if _, err := audit.Verify(f.path, f.key); err != nil { // while it is written
					t.Error(err)
				}
			}
		})
	}
	recording.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if report := f.verify(t); !report.Whole || report.Records != 152 || report.Torn != nil {
		t.Errorf("got %+v", report)
	}
}

func TestAVerificationMeanwhileFindsNothingWrong(t *testing.T) {
	f := newFile(t)
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var recording sync.WaitGroup
	for range 4 {
		recording.Go(func() {
			for ctx.Err() == nil {
				_ = l.Record(ctx, audit.Event{Event: "access.allowed"}) // which may end with ctx
			}
		})
	}
	for range 50 {
		if report := f.verify(t); !report.Whole {
			t.Errorf("got %+v", report.Broken)
		}
	}
	stop()
	recording.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOneWriter(t *testing.T) {
	f := newFile(t)
	l, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(); !errors.Is(err, audit.ErrInUse) {
		t.Errorf("a second writer: got %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	f.write(t, 1)
}

func TestWithoutAFileEventsAreLogged(t *testing.T) {
	var out bytes.Buffer
	l, err := audit.Open(audit.Options{Log: slog.New(slog.NewJSONHandler(&out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if l.Durable() {
		t.Error("nothing is durable")
	}
	if err := l.Record(t.Context(), audit.Event{Event: "access.refused", Caller: "user:ci"}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), `"event":"access.refused"`) || !strings.Contains(out.String(), "user:ci") {
		t.Errorf("got %s", out.String())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestTamperingIsSeen(t *testing.T) {
	whole := newFile(t)
	whole.write(t, 10) // with the lines of opening and closing 12
	content, head := whole.content(t), whole.headContent(t)
	lines := bytes.SplitAfter(content, []byte("\n"))
	lines = lines[:len(lines)-1]
	without := func(i int) []byte { return bytes.Join(append(append([][]byte{}, lines[:i]...), lines[i+1:]...), nil) }
	swapped := bytes.Join(append(append([][]byte{}, lines[:4]...), append([][]byte{lines[5], lines[4]}, lines[6:]...)...), nil)
	stranger := newFile(t)
	stranger.key = newKey(t, 's')
	stranger.write(t, 10)
	for _, tt := range []struct {
		law           string
		content, head []byte
		line          int // 0 for whole
	}{
		{"untouched", content, head, 0},
		{"a changed byte", bytes.Replace(content, []byte("user:3"), []byte("user:4"), 1), head, 5},
		{"a changed mark", bytes.Replace(content, lines[4][len(lines[4])-10:], []byte("aaaaaaa\"}\n"), 1), head, 5},
		{"a line that is gone", without(4), head, 5},
		{"the first line gone", without(0), head, 1},
		{"lines in another order", swapped, head, 5},
		{"a line twice", bytes.Join([][]byte{content[:len(content)-len(lines[11])], lines[10], lines[11]}, nil), head, 12},
		{"a line put in", bytes.Replace(content, lines[6], append([]byte("{\"seq\":7}\n"), lines[6]...), 1), head, 7},
		{"an empty line put in", bytes.Replace(content, lines[6], append([]byte("\n"), lines[6]...), 1), head, 7},
		{"the last line cut off", content[:len(content)-len(lines[11])], head, 12},
		{"half of it", content[:len(content)-20], head, 12},
		{"many lines cut off", bytes.Join(lines[:3], nil), head, 4},
		{"everything cut off", nil, head, 1},
		{"lines added without the key", append(bytes.Clone(content), stranger.content(t)...), head, 0}, // behind the end: closed off at the next start
		{"a file of another key", stranger.content(t), stranger.headContent(t), 1},
		{"a changed head", content, bytes.Replace(head, []byte("012"), []byte("011"), 1), 12},
		{"no head", content, nil, 12},
		{"a head of another file", content, stranger.headContent(t), 12},
		{"a huge line", append(bytes.Clone(lines[0]), bytes.Repeat([]byte("x"), 20<<20)...), head, 2},
	} {
		f := newFile(t)
		f.put(t, tt.content)
		if tt.head != nil {
			f.putHead(t, tt.head)
		}
		report := f.verify(t)
		got := 0
		if report.Broken != nil {
			got = report.Broken.Line
		}
		if got != tt.line || report.Whole != (tt.line == 0) {
			t.Errorf("%s: got %+v broken %+v, want line %d", tt.law, report, report.Broken, tt.line)
		}
	}
}

func TestABrokenFileIsNotWrittenTo(t *testing.T) {
	whole := newFile(t)
	whole.write(t, 10)
	content, head := whole.content(t), whole.headContent(t)
	for law, change := range map[string]func(f *file){
		"cut off":                  func(f *file) { f.put(t, content[:len(content)-1]) },
		"a changed last line":      func(f *file) { f.put(t, bytes.Replace(content, []byte("audit.closed"), []byte("audit.opened"), 1)) },
		"without its head":         func(f *file) { _ = os.Remove(f.path + ".head") },
		"empty, with a head":       func(f *file) { f.put(t, nil) },
		"with another key":         func(f *file) { f.key = newKey(t, 'x') },
		"with a lot behind it":     func(f *file) { f.put(t, append(bytes.Clone(content), make([]byte, 20<<20)...)) },
		"with a head that is none": func(f *file) { f.putHead(t, []byte("x")) },
	} {
		f := newFile(t)
		f.put(t, content)
		f.putHead(t, head)
		change(f)
		before, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.open(); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: got %v, want ErrBroken", law, err)
		}
		if after := f.content(t); !bytes.Equal(before, after) {
			t.Errorf("%s: it was written to", law)
		}
	}
}

func TestCrashes(t *testing.T) {
	for _, tt := range []struct {
		law  string
		tail string // behind the last whole line
		torn int64
	}{
		{"a process that was killed between lines", "", 0},
		{"half a line", `{"seq":5,"time":"2026`, 21},
		{"a line of zeros", strings.Repeat("\x00", 4096), 4096},
		{"a line end with what is no line in front", "x\n", 2},
		{"only a line end", "\n", 1},
		{"a long line", strings.Repeat("x", 100<<10), 100 << 10},
	} {
		f := newFile(t)
		f.crash(t, 3) // lines 1 to 4
		f.put(t, append(f.content(t), tt.tail...))
		report := f.verify(t)
		if !report.Whole || report.Records != 4 || len(report.Torn) != min(int(tt.torn), 1) {
			t.Errorf("%s: before the next start: got %+v %+v", tt.law, report, report.Broken)
		}
		f.write(t, 2)
		report = f.verify(t)
		want := audit.Report{Whole: true, Records: 8, First: now(), Last: now(), Hash: report.Hash}
		if tt.torn > 0 {
			want.Records, want.Torn = 9, []audit.Torn{{Line: 5, Bytes: tt.torn}}
			if !strings.Contains(f.log.String(), "not written to its end") {
				t.Errorf("%s: nobody was told", tt.law)
			}
		}
		if diff := cmp.Diff(report, want); diff != "" {
			t.Errorf("%s (-got +want):\n%s", tt.law, diff)
		}
		if tt.torn > 0 {
			content := f.content(t)
			f.put(t, bytes.Replace(content, []byte(tt.tail), []byte("y"+tt.tail[1:]), 1))
			if report := f.verify(t); report.Whole {
				t.Errorf("%s: what is closed off can be changed unseen", tt.law)
			}
		}
	}
}

func TestAHeadThatLagsBehind(t *testing.T) {
	f := newFile(t)
	f.crash(t, 1)
	early := f.headContent(t)
	f.write(t, 3)
	f.putHead(t, early) // the machine lost power before the head was on disk
	if report := f.verify(t); !report.Whole || report.Records != 7 {
		t.Errorf("got %+v", report)
	}
	f.write(t, 1)
	if report := f.verify(t); !report.Whole || report.Records != 10 {
		t.Errorf("got %+v", report)
	}
}

func TestWhatIsNotThereCannotBeVerified(t *testing.T) {
	f := newFile(t)
	if _, err := audit.Verify(f.path, f.key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	f.write(t, 1)
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	if report := f.verify(t); report.Whole || report.Broken == nil {
		t.Errorf("a file that was taken away: got %+v", report)
	}
}

func TestAFullDiskIsNotTheEnd(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full")
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	_, err := audit.Open(audit.Options{Path: path, Key: newKey(t, 'k'), Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		t.Error("a log that cannot be written is open")
	}
}

// BenchmarkRecord is the time of one record: of a disk's sync when there is one at a time, of less the more come at once, since those share
// it.
func BenchmarkRecord(b *testing.B) {
	for _, atOnce := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("%d at once", atOnce), func(b *testing.B) {
			f := newFile(b)
			l, err := f.open()
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			b.ResetTimer()
			var recording sync.WaitGroup
			for worker := range atOnce {
				recording.Go(func() {
					for i := worker; i < b.N; i += atOnce {
						if err := l.Record(b.Context(), audit.Event{Event: "access.allowed", Caller: "user:ci", Action: "push", Repository: "apps/web"}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			recording.Wait()
		})
	}
}
