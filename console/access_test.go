package console_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tidewaiter/tidewaiter/access"
	"github.com/tidewaiter/tidewaiter/console"
	"github.com/tidewaiter/tidewaiter/oci"
)

// reviewers lets sam review app, and nobody anything else.
type reviewers struct{ recorded int }

func (v *reviewers) Identify(r *http.Request) (access.Caller, error) {
	name, password, ok := r.BasicAuth()
	switch {
	case !ok:
		return access.Caller{Name: "anonymous"}, nil
	case password != "right":
		return access.Caller{}, &oci.Error{Code: oci.CodeUnauthorized, Message: "the credentials are not valid"}
	}
	return access.Caller{Name: "user:" + name}, nil
}

func (v *reviewers) May(caller access.Caller, action access.Action, repo oci.Repository) bool {
	return caller.Name == "user:sam" && action == access.Review && repo == app
}

func (v *reviewers) Allow(_ context.Context, caller access.Caller, _ access.Action, _ oci.Repository) error {
	v.recorded++
	if caller.Anonymous() {
		return &oci.Error{Code: oci.CodeUnauthorized, Message: "authentication is required"}
	}
	return &oci.Error{Code: oci.CodeDenied, Message: "not granted"}
}

func TestReviewersAlone(t *testing.T) {
	image, other := "registry.example:5000/acme/app@"+digest.String(), "registry.example:5000/acme/none@"+digest.String()
	for _, tt := range []struct {
		law, user, password, image string
		want, wantRecorded         int
	}{
		{"whoever reviews sees it", "sam", "right", image, 200, 0},
		{"whoever shows nothing is asked", "", "", image, 401, 1},
		{"whoever shows what is wrong is asked", "sam", "wrong", image, 401, 0},
		{"others do not see it", "kim", "right", image, 403, 1},
		{"nor learn whether there is anything", "kim", "right", other, 403, 1},
		{"one reviews what one was given", "sam", "right", other, 403, 1},
	} {
		for _, path := range []string{"/images/", "/api/v1/images/"} {
			t.Run(tt.law+" at "+path, func(t *testing.T) {
				v := &reviewers{}
				c := console.New(console.Options{
					Access: v, History: known{}, Resolver: known{}, Metrics: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
				})
				r := httptest.NewRequest(http.MethodGet, path+tt.image, nil)
				if tt.user != "" {
					r.SetBasicAuth(tt.user, tt.password)
				}
				w := httptest.NewRecorder()
				c.ServeHTTP(w, r)
				if asks := w.Header().Get("WWW-Authenticate") != ""; w.Code != tt.want || asks != (tt.want == 401) || v.recorded != tt.wantRecorded {
					t.Errorf("got %d, asked for credentials: %t, %d on record; want %d, %d", w.Code, asks, v.recorded, tt.want, tt.wantRecorded)
				}
				if tt.want != 200 && strings.Contains(w.Body.String(), "unsigned") {
					t.Errorf("it shows the verdict: %s", w.Body)
				}
			})
		}
	}
	t.Run("health and metrics ask nobody", func(t *testing.T) {
		for _, path := range []string{"/healthz", "/readyz", "/metrics"} {
			if w := get(t, console.Options{Access: &reviewers{}}, path); w.Code != 200 {
				t.Errorf("%s: got %d", path, w.Code)
			}
		}
	})
}
