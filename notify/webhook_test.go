package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The example of the specification's own libraries: secret, id, time, body and mark.
func TestSignatureIsThatOfStandardWebhooks(t *testing.T) {
	secrets, err := parseSecrets([]byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := signature(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func secretOf(b byte, n int) string {
	return secretPrefix + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(b), n)))
}

func TestSecrets(t *testing.T) {
	for law, tt := range map[string]struct {
		content string
		want    int // how many there are; 0 for an error
	}{
		"one":                             {secretOf('a', 32), 1},
		"two, while one is replaced":      {secretOf('a', 24) + "\r\n\n" + secretOf('b', 64) + "\n", 2},
		"none":                            {"\n", 0},
		"one that is too short":           {secretOf('a', 23), 0},
		"one that is too long":            {secretOf('a', 65), 0},
		"one without what it begins with": {strings.TrimPrefix(secretOf('a', 32), secretPrefix), 0},
		"one that is not base64":          {secretPrefix + "!", 0},
		"a good and a bad one":            {secretOf('a', 32) + "\nx", 0},
		"too many":                        {strings.Repeat(secretOf('a', 32)+"\n", 5), 0},
	} {
		got, err := parseSecrets([]byte(tt.content))
		if len(got) != tt.want || (err == nil) != (tt.want > 0) {
			t.Errorf("%s: got %d, %v", law, len(got), err)
		}
		if err != nil && tt.content != "\n" && strings.Contains(err.Error(), tt.content) {
			t.Errorf("%s: the error repeats the secret: %v", law, err)
		}
	}
}

func FuzzSecrets(f *testing.F) {
	f.Add([]byte(secretOf('a', 32) + "\n" + secretOf('b', 24)))
	f.Add([]byte("whsec_"))
	f.Fuzz(func(t *testing.T, content []byte) {
		secrets, err := parseSecrets(content)
		if (err == nil) != (len(secrets) > 0) {
			t.Errorf("%d secrets, %v", len(secrets), err)
		}
		for _, s := range secrets {
			if len(s) < minSecretBytes || len(s) > maxSecretBytes {
				t.Errorf("a secret of %d bytes", len(s))
			}
		}
	})
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// end returns a sender to a server over TLS that answers as handler does.
func end(t *testing.T, hook Webhook, handler http.HandlerFunc) *sender {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	hook.URL = server.URL + "/hook?token=secret-in-url"
	if hook.SecretFile == "" {
		hook.SecretFile = file(t, secretOf('a', 32)+"\n"+secretOf('b', 32))
	}
	if hook.CAFile == "" {
		hook.CAFile = file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	}
	s, err := newSender(hook, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnEventIsPostedAndSigned(t *testing.T) {
	var header http.Header
	var body []byte
	s := end(t, Webhook{UnsafePrivateAddresses: true}, func(w http.ResponseWriter, r *http.Request) {
		header, body = r.Header, nil
		body, _ = io.ReadAll(r.Body) // what is missing is seen below
		w.WriteHeader(http.StatusNoContent)
	})
	if f := s.send(t.Context(), "EPOCH-1", []byte(`{"x":1}`)); f != nil {
		t.Fatal(f.problem)
	}
	if string(body) != `{"x":1}` || header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" {
		t.Errorf("got %s, %v", body, header)
	}
	var marks []string
	for _, secret := range []string{strings.Repeat("a", 32), strings.Repeat("b", 32)} {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(header.Get("webhook-id") + "." + header.Get("webhook-timestamp") + "." + string(body)))
		marks = append(marks, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if diff := cmp.Diff(header.Get("webhook-signature"), strings.Join(marks, " ")); diff != "" || header.Get("webhook-id") != "EPOCH-1" {
		t.Errorf("%s: %s", header.Get("webhook-id"), diff)
	}
}

func TestAttemptsThatFail(t *testing.T) {
	answers := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i < len(header); i += 2 {
				w.Header().Set(header[i], header[i+1])
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "secret-in-answer")
		}
	}
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	defer elsewhere.Close()
	refused := errors.New("the address is not a public one")
	for law, tt := range map[string]struct {
		hook    Webhook
		handler http.HandlerFunc
		want    failure
	}{
		"an error": {Webhook{UnsafePrivateAddresses: true}, answers(500), failure{problem: "it answered 500 Internal Server Error"}},
		"a redirect is not followed": {Webhook{UnsafePrivateAddresses: true}, answers(307, "Location", elsewhere.URL),
			failure{problem: "it answered 307 Temporary Redirect"}},
		"busy, and says until when": {Webhook{UnsafePrivateAddresses: true}, answers(429, "Retry-After", "90"),
			failure{problem: "it answered 429 Too Many Requests", after: 90 * time.Second}},
		"an address inside the network": {Webhook{Control: func(string, string, syscall.RawConn) error { return refused }}, answers(200),
			failure{problem: refused.Error()}},
		"a certificate nobody trusts": {Webhook{UnsafePrivateAddresses: true, CAFile: "none"}, answers(200), failure{problem: "certificate"}},
		"no secret":                   {Webhook{UnsafePrivateAddresses: true, SecretFile: "/none"}, answers(200), failure{problem: "nothing to sign it with"}},
		"an answer that has no end": {Webhook{UnsafePrivateAddresses: true, Timeout: time.Second}, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(503)
			for r.Context().Err() == nil {
				_, _ = w.Write(make([]byte, 64<<10)) // until it is hung up on
			}
		}, failure{problem: "it answered 503 Service Unavailable"}},
	} {
		t.Run(law, func(t *testing.T) {
			if tt.hook.CAFile == "none" {
				tt.hook.CAFile = file(t, string(readFile(t, "../configs/corp-ca.pem")))
			}
			got := end(t, tt.hook, tt.handler).send(t.Context(), "x", []byte("{}"))
			if got == nil {
				t.Fatal("it was delivered")
			}
			if !strings.Contains(got.problem, tt.want.problem) || got.after != tt.want.after || got.abandoned {
				t.Errorf("got %+v, want %+v", *got, tt.want)
			}
			if strings.Contains(got.problem, "secret-in") {
				t.Errorf("it says too much: %s", got.problem)
			}
		})
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 4, 1, 12, 0, 0, 0, time.UTC)
	for header, want := range map[string]time.Duration{
		"": 0, "120": 2 * time.Minute, "-5": 0, "soon": 0, "99999999": time.Hour, "99999999999999999999": 0,
		"Wed, 01 Apr 2026 12:00:30 GMT": 30 * time.Second, "Wed, 01 Apr 2026 11:00:00 GMT": 0, "Wed, 01 Apr 2099 11:00:00 GMT": time.Hour,
	} {
		if got := retryAfter(header, now); got != want {
			t.Errorf("%q: got %s, want %s", header, got, want)
		}
	}
}

func TestWebhooksThatCannotBe(t *testing.T) {
	control := func(string, string, syscall.RawConn) error { return nil }
	good := Webhook{URL: "https://receiver.example/x", SecretFile: "secret", Control: control}
	with := func(change func(*Webhook)) Webhook {
		w := good
		change(&w)
		return w
	}
	for law, tt := range map[string]struct {
		webhooks []Webhook
		want     string // part of the error; empty for none
	}{
		"good":                         {[]Webhook{good}, ""},
		"two hosts":                    {[]Webhook{good, with(func(w *Webhook) { w.URL = "https://other.example" })}, ""},
		"plain http where it may be":   {[]Webhook{with(func(w *Webhook) { w.URL, w.UnsafePrivateAddresses = "http://localhost:1", true })}, ""},
		"one name twice":               {[]Webhook{good, good}, "webhooks[1]: there is another one"},
		"plain http":                   {[]Webhook{with(func(w *Webhook) { w.URL = "http://receiver.example" })}, "plain http"},
		"no URL":                       {[]Webhook{with(func(w *Webhook) { w.URL = "" })}, "not an https or http URL"},
		"another scheme":               {[]Webhook{with(func(w *Webhook) { w.URL = "ftp://receiver.example" })}, "not an https or http URL"},
		"a password in the URL":        {[]Webhook{with(func(w *Webhook) { w.URL = "https://u:p@receiver.example" })}, "user or a password"},
		"no secret":                    {[]Webhook{with(func(w *Webhook) { w.SecretFile = "" })}, "secret_file"},
		"a name nobody could type":     {[]Webhook{with(func(w *Webhook) { w.Name = "a\nb" })}, "name"},
		"events there are not":         {[]Webhook{with(func(w *Webhook) { w.Types = []Type{"verdict.maybe"} })}, "verdict.maybe"},
		"more time than there is":      {[]Webhook{with(func(w *Webhook) { w.Timeout = time.Hour })}, "timeout"},
		"nothing that guards dialling": {[]Webhook{with(func(w *Webhook) { w.Control = nil })}, "the network behind us"},
	} {
		err := Check(tt.webhooks)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", law, err, tt.want)
		}
	}
	err := CheckFiles([]Webhook{{SecretFile: "/none", CAFile: file(t, "x")}})
	if err == nil || !strings.Contains(err.Error(), "secret_file") || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("files that are not there: got %v", err)
	}
}
