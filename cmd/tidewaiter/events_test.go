package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"

	"github.com/tidewaiter/tidewaiter/audit"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/ledger"
	"github.com/tidewaiter/tidewaiter/notify"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/seal"
)

// told has the lab's proxy tell a webhook at url.
func (l *lab) tell(t *testing.T, url string) {
	t.Helper()
	l.write(t, "webhook.secret", "whsec_"+base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 32))))
	f, err := os.OpenFile(l.config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(f, "\nwebhooks: [{name: ops, url: %q, secret_file: %q, unsafe_private_addresses: true}]\n", url, l.path("webhook.secret"))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// bury puts dead letters into the lab's storage, and returns their names.
func (l *lab) bury(t *testing.T, webhooks ...string) (names []string) {
	t.Helper()
	key, err := seal.CreateKey(filepath.Join(l.path("data"), sealKeyName))
	if err != nil {
		t.Fatal(err)
	}
	driver := filesystem.New(filesystem.DriverParameters{RootDirectory: l.path("data"), MaxThreads: storageThreads})
	store := deliveries{ledger.NewPending[notify.Delivery](ledger.New(driver, key, slog.New(slog.DiscardHandler), time.Now), "webhooks")}
	for i, w := range webhooks {
		name, err := store.Keep(t.Context(), notify.Delivery{
			Webhook: w, EventID: fmt.Sprint("E-", i), Type: notify.Recall, Subject: "app\x1b[31m", Body: json.RawMessage(`{}`), Attempts: 8,
			FailedAt: time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), Problem: "down", Dead: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

func TestDeadLettersAreLookedAfter(t *testing.T) {
	l := newLab(t, lenient)
	l.tell(t, "http://127.0.0.1:1/nobody")
	if err := os.Mkdir(l.path("data"), 0o700); err != nil {
		t.Fatal(err)
	}
	names := l.bury(t, "ops", "ops", "gone", "ops")
	s := l.serve(t)
	defer func() {
		s.stop()
		if err := await(t, "the end", s.ended); err != nil {
			t.Errorf("it ended with %v", err)
		}
	}()
	server := "http://" + s.admin
	for _, tt := range []struct {
		law  string
		args []string
		code int
		want []string
	}{
		{"they are listed", []string{"list"}, exitDone, []string{names[0], "gone", "recall", "2026-04-01T00:00:00Z", "down"}},
		{"one is dropped", []string{"drop", names[0]}, exitDone, []string{names[0] + ": done"}},
		{"and is gone", []string{"drop", names[0]}, exitFailure, []string{names[0] + ": there is none"}},
		{"one is tried again", []string{"retry", names[1]}, exitDone, []string{names[1] + ": done"}},
		{"all are tried again, but those of a webhook there is not", []string{"retry", "--all"}, exitFailure, []string{names[3] + ": done", names[2] + ": there is none"}},
		{"what is left is dropped", []string{"drop", "--all"}, exitDone, []string{names[2] + ": done"}},
		{"and then there is nothing", []string{"list"}, exitDone, []string{"no dead letters"}},
		{"nor to be dropped", []string{"drop", "--all"}, exitDone, []string{"no dead letters"}},
		{"either names or all", []string{"drop"}, exitUsage, nil},
		{"and not both", []string{"drop", "--all", "x"}, exitUsage, nil},
	} {
		got := command(t, append([]string{"webhook", tt.args[0], "--server", server}, tt.args[1:]...)...)
		if got.code != tt.code {
			t.Errorf("%s: exit %d: %s", tt.law, got.code, got.stderr)
		}
		for _, want := range tt.want {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("%s: there is no %q in\n%s", tt.law, want, got.stdout)
			}
		}
		if strings.Contains(got.stdout, "\x1b") {
			t.Errorf("%s: it sends a terminal's commands on", tt.law)
		}
	}
	t.Run("as JSON", func(t *testing.T) {
		got := command(t, "webhook", "list", "--server", server, "-o", "json")
		var letters []console.DeadLetter
		if err := json.Unmarshal([]byte(got.stdout), &letters); err != nil || len(letters) != 0 {
			t.Errorf("%v in %s", err, got.stdout)
		}
	})
	t.Run("a server that is none, with a password in it", func(t *testing.T) {
		got := command(t, "webhook", "list", "--server", "gopher://operator:hunter2@127.0.0.1")
		if got.code != exitUsage || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("exit %d: %s", got.code, got.stderr)
		}
		got = command(t, "webhook", "list", "--server", "http://operator:hunter2@127.0.0.1:1")
		if got.code != exitFailure || strings.Contains(got.stderr, "hunter2") {
			t.Errorf("exit %d: %s", got.code, got.stderr)
		}
	})
}

// recorder notes verdicts.
type recorder struct {
	gate.Records
	verdicts []gate.Verdict
}

func (r *recorder) RecordVerdict(_ context.Context, v gate.Verdict) error {
	r.verdicts = append(r.verdicts, v)
	return nil
}

func TestAVerdictThatIsNotOnRecordIsNone(t *testing.T) {
	key, err := seal.NewKey([]byte("a key that seals the records of this test"))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	in := &instance{config: &config{}, log: log, meters: newMeters()}
	if in.events, err = notify.New(notify.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if in.audit, err = audit.Open(audit.Options{Path: path, Key: key, Log: log}); err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	a := audited{r, in}
	v := gate.Verdict{Repository: oci.Repository{Path: "apps/web"}, Digest: oci.FromBytes([]byte("x")), Key: "abc", Policy: "p"}
	if err := a.RecordVerdict(t.Context(), v); err != nil || len(r.verdicts) != 1 {
		t.Errorf("got %v, %d", err, len(r.verdicts))
	}
	if err := in.audit.Close(); err != nil {
		t.Fatal(err)
	}
	if content := string(readFile(t, path)); !strings.Contains(content, `"event":"verdict.denied"`) || !strings.Contains(content, `"inputs":"abc"`) {
		t.Errorf("on record: %s", content)
	}
	reader, leave, err := in.events.Read("")
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if err := a.RecordVerdict(t.Context(), v); !errors.Is(err, audit.ErrClosed) || len(r.verdicts) != 1 {
		t.Errorf("an audit log that takes no more: got %v, and %d verdicts are recorded", err, len(r.verdicts))
	}
	if p, ok, _ := reader.Next(t.Context(), nil); !ok || p.Type != notify.AuditFailed {
		t.Errorf("nobody is told: %v", p.Type)
	}
}
