package upstream

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tidewaiter/tidewaiter/oci"
)

func TestStatusFailure(t *testing.T) {
	now := newClock().Now()
	after := func(text string) http.Header { return http.Header{"Retry-After": {text}} }
	tests := map[string]struct {
		kind        Kind
		status      int
		header      http.Header
		wantCode    oci.Code
		wantOutcome Outcome
		wantRetry   time.Duration
	}{
		"a manifest is missing":       {KindManifest, 404, nil, oci.CodeManifestUnknown, OutcomeMissing, 0},
		"a blob is missing":           {KindBlob, 404, nil, oci.CodeBlobUnknown, OutcomeMissing, 0},
		"a repository is missing":     {KindTags, 404, nil, oci.CodeNameUnknown, OutcomeMissing, 0},
		"no referrers API":            {KindReferrers, 404, nil, oci.CodeManifestUnknown, OutcomeMissing, 0},
		"unauthorized":                {KindManifest, 401, nil, oci.CodeUnauthorized, OutcomeUnauthorized, 0},
		"forbidden":                   {KindManifest, 403, nil, oci.CodeUnauthorized, OutcomeUnauthorized, 0},
		"limited":                     {KindManifest, 429, nil, oci.CodeTooManyRequests, OutcomeLimited, limitRetryAfter},
		"limited for some seconds":    {KindManifest, 429, after("90"), oci.CodeTooManyRequests, OutcomeLimited, 90 * time.Second},
		"limited until a date":        {KindManifest, 429, after(now.Add(2 * time.Minute).Format(http.TimeFormat)), oci.CodeTooManyRequests, OutcomeLimited, 2 * time.Minute},
		"limited until a past date":   {KindManifest, 429, after(now.Add(-time.Hour).Format(http.TimeFormat)), oci.CodeTooManyRequests, OutcomeLimited, time.Second},
		"limited for no time":         {KindManifest, 429, after("0"), oci.CodeTooManyRequests, OutcomeLimited, time.Second},
		"limited for a day":           {KindManifest, 429, after("86400"), oci.CodeTooManyRequests, OutcomeLimited, maxRetryAfter},
		"limited for ever":            {KindManifest, 429, after("99999999999999999999"), oci.CodeTooManyRequests, OutcomeLimited, limitRetryAfter},
		"limited for a negative time": {KindManifest, 429, after("-5"), oci.CodeTooManyRequests, OutcomeLimited, limitRetryAfter},
		"an error of its own":         {KindManifest, 500, nil, oci.CodeUnavailable, OutcomeDown, downRetryAfter},
		"unavailable until":           {KindManifest, 503, after("60"), oci.CodeUnavailable, OutcomeDown, time.Minute},
		"no range":                    {KindBlob, 416, nil, oci.CodeUnavailable, OutcomeRefused, downRetryAfter},
		"an odd status":               {KindManifest, 418, nil, oci.CodeUnavailable, OutcomeRefused, downRetryAfter},
		"content that is none":        {KindManifest, 204, nil, oci.CodeUnavailable, OutcomeRefused, downRetryAfter},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := statusFailure("registry.test", tc.kind, tc.status, tc.header, now)
			if got.answer.Code != tc.wantCode || got.outcome != tc.wantOutcome || got.answer.RetryAfter != tc.wantRetry {
				t.Errorf("got %s, %s, %s, want %s, %s, %s", got.answer.Code, got.outcome, got.answer.RetryAfter, tc.wantCode, tc.wantOutcome, tc.wantRetry)
			}
		})
	}
}

func TestOutcomeOf(t *testing.T) {
	tests := map[string]struct {
		err  error
		want Outcome
	}{
		"nothing wrong":        {nil, OutcomeOK},
		"a failure, wrapped":   {fmt.Errorf("x: %w", down("a", 0)), OutcomeDown},
		"the caller left":      {fmt.Errorf("x: %w", context.Canceled), OutcomeAbandoned},
		"the caller's time":    {context.DeadlineExceeded, OutcomeAbandoned},
		"anything else":        {errors.New("x"), OutcomeRefused},
		"a failure of the two": {fmt.Errorf("%w: %w", context.Canceled, limited("a", 0)), OutcomeLimited},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := outcomeOf(tc.err); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Fri, 01 May 2026 12:00:00 GMT")
	now := newClock().Now()
	f.Fuzz(func(t *testing.T, text string) {
		got := retryAfter(http.Header{"Retry-After": {text}}, now, limitRetryAfter)
		if got < time.Second || got > maxRetryAfter {
			t.Errorf("got %s, want between a second and %s", got, maxRetryAfter)
		}
	})
}
