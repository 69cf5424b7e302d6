package e2e_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// What is handed to Prometheus, it takes: the rules as they are, and the expressions of the dashboard with its variables filled in.
func TestPrometheusTakesTheRules(t *testing.T) {
	promtool := program(t, "promtool")
	alerts, err := filepath.Abs("../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	mustRun(t, promtool, "check", "rules", alerts)
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(mustRead(t, "../deploy/grafana-dashboard.json"), &board); err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*")
	var rules []keys
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			rules = append(rules, keys{"record": fmt.Sprintf("panel:%d", len(rules)), "expr": filled.Replace(target.Expr)})
		}
	}
	raw, err := json.Marshal(keys{"groups": []keys{{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	writeFile(t, file, raw)
	if said := mustRun(t, promtool, "check", "rules", file); !strings.Contains(said, fmt.Sprintf("%d rules found", len(rules))) {
		t.Errorf("promtool says %s", said)
	}
}
