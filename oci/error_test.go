package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWriteError(t *testing.T) {
	for _, tt := range []struct {
		law            string
		err            error
		wantStatus     int
		wantBody       string
		wantRetryAfter string
	}{
		{"an error of ours", &Error{Code: CodeDenied, Message: `production: "unsigned" — see`, Detail: []string{"x"}}, 403,
			`{"errors":[{"code":"DENIED","message":"production: \"unsigned\" — see","detail":["x"]}]}`, ""},
		{"an error that wraps one says no more than it", fmt.Errorf("asking 10.0.0.1: %w", ErrBlobUnknown), 404,
			`{"errors":[{"code":"BLOB_UNKNOWN","message":"the blob is not known"}]}`, ""},
		{"the first of several", fmt.Errorf("%w: %w", ErrUnavailable, ErrNotFound), 503,
			`{"errors":[{"code":"UNAVAILABLE","message":"the upstream does not answer"}]}`, ""},
		{"any other error stays here", errors.New("open /secret/path: permission denied"), 500,
			`{"errors":[{"code":"UNKNOWN","message":"internal error"}]}`, ""},
		{"a rate limit of the upstream's is not the client's", ErrRateLimited, 503,
			`{"errors":[{"code":"TOOMANYREQUESTS","message":"the upstream limits the rate of requests"}]}`, ""},
		{"a client that asks too often is told so", &Error{Code: CodeTooManyRequests, Message: "wait", HTTPStatus: 429, RetryAfter: time.Minute}, 429,
			`{"errors":[{"code":"TOOMANYREQUESTS","message":"wait"}]}`, "60"},
		{"a part of a second is a whole one", &Error{Code: CodeUnavailable, Message: "wait", RetryAfter: 1200 * time.Millisecond}, 503,
			`{"errors":[{"code":"UNAVAILABLE","message":"wait"}]}`, "2"},
		{"a code nobody knows is a fault of ours", &Error{Code: "NOVEL", Message: "m"}, 500,
			`{"errors":[{"code":"NOVEL","message":"m"}]}`, ""},
		{"a detail JSON cannot hold is left out", &Error{Code: CodeDenied, Message: "m", Detail: func() {}}, 403,
			`{"errors":[{"code":"DENIED","message":"m"}]}`, ""},
	} {
		t.Run(tt.law, func(t *testing.T) {
			w := httptest.NewRecorder()
			w.Header().Set("Docker-Content-Digest", string(digestA))
			w.Header().Set("ETag", `"x"`)
			if got := WriteError(w, tt.err); got != tt.wantStatus || w.Code != tt.wantStatus {
				t.Errorf("got %d and wrote %d, want %d", got, w.Code, tt.wantStatus)
			}
			if diff := cmp.Diff(tt.wantBody+"\n", w.Body.String()); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			want := http.Header{
				"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"},
				"Content-Length": {fmt.Sprint(len(tt.wantBody) + 1)},
			}
			if tt.wantRetryAfter != "" {
				want.Set("Retry-After", tt.wantRetryAfter)
			}
			if diff := cmp.Diff(want, w.Header()); diff != "" {
				t.Errorf("headers (-want +got):\n%s", diff)
			}
		})
	}
}

func TestErrorsCompareByCode(t *testing.T) {
	mine := fmt.Errorf("x: %w", &Error{Code: CodeManifestUnknown, Message: "a sentence of its own"})
	if !errors.Is(mine, ErrNotFound) || errors.Is(mine, ErrBlobUnknown) || errors.Is(errors.New("x"), ErrNotFound) {
		t.Error("errors of one code are not one error")
	}
	for err, want := range map[error]bool{
		ErrNotFound: true, ErrBlobUnknown: true, &Error{Code: CodeNameUnknown}: true, mine: true,
		ErrUnavailable: false, ErrUnauthorized: false, ErrRateLimited: false, ErrMismatch: false, nil: false,
	} {
		if got := IsMissing(err); got != want {
			t.Errorf("IsMissing(%v) = %t, want %t", err, got, want)
		}
	}
}

func TestEveryCodeHasItsStatus(t *testing.T) {
	for code, status := range statuses {
		e := &Error{Code: code}
		if e.Status() != status || http.StatusText(status) == "" || status < 400 {
			t.Errorf("%s has status %d, got %d", code, status, e.Status())
		}
	}
	if len(statuses) != 19 {
		t.Errorf("%d codes have a status, want all 19", len(statuses))
	}
}

// FuzzErrorBody holds that whatever an error says, its body is one line of JSON that says it.
func FuzzErrorBody(f *testing.F) {
	f.Add("DENIED", "a message")
	f.Add("X\"", "line\nbreak \x1b[31m \xff </script>\u2028")
	f.Fuzz(func(t *testing.T, code, message string) {
		body := (&Error{Code: Code(code), Message: message}).Body()
		if n := strings.Count(string(body), "\n"); n != 1 || body[len(body)-1] != '\n' {
			t.Fatalf("%q has %d lines", body, n)
		}
		var got struct {
			Errors []struct{ Code, Message string }
		}
		if err := json.Unmarshal(body, &got); err != nil || len(got.Errors) != 1 {
			t.Fatalf("%q: %v", body, err)
		}
		if want := string([]rune(message)); got.Errors[0].Message != want { // a replacement character for each broken byte
			t.Fatalf("got %q, want %q", got.Errors[0].Message, want)
		}
	})
}
