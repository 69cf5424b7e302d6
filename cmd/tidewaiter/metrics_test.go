package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/tidewaiter/tidewaiter/oci"
)

const (
	metricsDoc    = "../../docs/metrics.md"
	alertsFile    = "../../deploy/alerts.yaml"
	dashboardFile = "../../deploy/grafana-dashboard.json"
)

// exposition is what a proxy that has done a bit of everything exposes: the names of its metrics, and how many series there are of all.
type exposition struct {
	names  []string
	series int
}

func scrape(t *testing.T, s *serving) exposition {
	t.Helper()
	got := ask(t.Context(), "http://"+s.admin+"/metrics")
	if got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	var e exposition
	for row := range strings.Lines(got.body) {
		if name, ok := strings.CutPrefix(row, "# TYPE tidewaiter_"); ok {
			name, _, _ = strings.Cut(name, " ")
			e.names = append(e.names, "tidewaiter_"+name)
		}
		if strings.HasPrefix(row, "tidewaiter_") {
			e.series++
		}
	}
	slices.Sort(e.names)
	return e
}

// busy is a proxy that has pulled something, and that tells a webhook of it.
func busy(t *testing.T) *serving {
	t.Helper()
	l := newLab(t, lenient)
	l.tell(t, "http://127.0.0.1:1/nobody")
	l.push(t, "1.0", oci.Platform{})
	s := l.serve(t)
	t.Cleanup(func() {
		s.stop()
		if err := await(t, "the end", s.ended); err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
	if got := ask(t.Context(), "http://"+s.registry+"/v2/registry.demo/app/manifests/1.0"); got.status != http.StatusOK {
		t.Fatalf("got %+v", got)
	}
	for !strings.Contains(ask(t.Context(), "http://"+s.admin+"/metrics").body, "\ntidewaiter_storage_held_bytes ") {
		if t.Context().Err() != nil { // what is held is counted with nobody waiting
			t.Fatal("what is held is not counted")
		}
	}
	return s
}

func TestEveryMetricIsWrittenDown(t *testing.T) {
	got := scrape(t, busy(t)).names
	var want []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(tidewaiter_[a-z_]+)").FindAllStringSubmatch(string(readFile(t, metricsDoc)), -1) {
		want = append(want, row[1])
	}
	slices.Sort(want)
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("there are other metrics than %s has (-exposed +written):\n%s", metricsDoc, diff)
	}
	t.Run("and rules and panels name no others", func(t *testing.T) {
		for file, expressions := range map[string][]string{alertsFile: alerts(t), dashboardFile: panels(t)} {
			if len(expressions) < 15 {
				t.Errorf("%s has %d expressions", file, len(expressions))
			}
			for _, e := range expressions {
				for _, name := range regexp.MustCompile(`\btidewaiter_[a-z_]+`).FindAllString(e, -1) {
					base := strings.TrimSuffix(name, "_bucket")
					if !slices.Contains(got, base) {
						t.Errorf("%s asks for %s, which there is not", file, name)
					}
				}
			}
		}
	})
}

// alerts returns the expressions of the rules.
func alerts(t *testing.T) (all []string) {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Summary, Description string }
			}
		}
	}
	if err := yaml.Unmarshal(readFile(t, alertsFile), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all = append(all, r.Expr)
			if r.Alert == "" || r.Annotations.Summary == "" || r.Annotations.Description == "" {
				t.Errorf("a rule about %s does not say what it is about", r.Expr)
			}
		}
	}
	return all
}

// panels returns the expressions of the dashboard.
func panels(t *testing.T) (all []string) {
	t.Helper()
	var board struct {
		Panels []struct {
			ID      int
			Targets []struct{ Expr string }
		}
		Annotations struct{ List []struct{ Expr string } }
	}
	if err := json.Unmarshal(readFile(t, dashboardFile), &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("two panels are number %d", p.ID)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			all = append(all, target.Expr)
		}
	}
	for _, a := range board.Annotations.List {
		all = append(all, a.Expr)
	}
	return all
}

// Whatever clients ask for, the number of series stays what it is.
func TestNoClientMakesSeries(t *testing.T) {
	s := busy(t)
	hostile := func(round int) {
		for i := range 20 {
			name := fmt.Sprintf("made-up-%d-%d", round, i)
			for _, path := range []string{
				"/v2/registry.demo/" + name + "/manifests/" + name, "/v2/" + name + ".example/x/manifests/1", "/v2/registry.demo/app/tags/" + name,
				"/v2/registry.demo/app/blobs/" + oci.FromBytes([]byte(name)).String(), "/v2/app/manifests/1.0?ns=" + name + ".example",
				"/v2/registry.demo/app/referrers/" + oci.FromBytes([]byte(name)).String(), "/" + name,
			} {
				for _, method := range []string{"GET", "HEAD", "PUT", "BREW" + strings.ToUpper(strings.ReplaceAll(name, "-", ""))} {
					req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.registry+path, nil)
					if err != nil {
						t.Fatal(err)
					}
					req.SetBasicAuth(name, name)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					_ = resp.Body.Close() // its status and body do not matter
				}
			}
		}
	}
	hostile(1)
	before := scrape(t, s).series
	hostile(2)
	if after := scrape(t, s).series; after != before {
		t.Errorf("there were %d series, and are %d now", before, after)
	}
}
