package scan

import (
	"math"
	"strings"

	gocvss40 "github.com/pandatix/go-cvss/40"

	"github.com/tidewaiter/tidewaiter/gate"
)

// cvssWeights are the weights of the base metrics of CVSS 3.1 (first.org/cvss/v3-1/specification-document, section 7.4), which are
// those of 3.0 too. A metric with a value that is not here makes the vector none.
var cvssWeights = map[string]map[string]float64{
	"AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
	"AC": {"L": 0.77, "H": 0.44},
	"PR": {"N": 0.85, "L": 0.62, "H": 0.27},
	"UI": {"N": 0.85, "R": 0.62},
	"S":  {"U": 0, "C": 1},
	"C":  {"H": 0.56, "L": 0.22, "N": 0},
	"I":  {"H": 0.56, "L": 0.22, "N": 0},
	"A":  {"H": 0.56, "L": 0.22, "N": 0},
}

// cvssChangedPrivileges replaces the weights of PR where the scope changes.
var cvssChangedPrivileges = map[string]float64{"N": 0.85, "L": 0.68, "H": 0.5}

// severityOfVector returns how bad the base metrics of a CVSS vector of version 3 or 4, "CVSS:3.1/AV:N/AC:L/…", rate; Unrated for one
// that is not whole, or of another version.
func severityOfVector(vector string) gate.Severity {
	if metrics, ok := strings.CutPrefix(vector, cvss4Header+"/"); ok {
		return severityOfMetrics4(metrics)
	}
	metrics, ok := strings.CutPrefix(vector, "CVSS:3.")
	if !ok {
		return gate.Unrated
	}
	weights, values := map[string]float64{}, map[string]string{}
	for metric := range strings.SplitSeq(metrics, "/") {
		name, value, _ := strings.Cut(metric, ":")
		if weight, ok := cvssWeights[name][value]; ok {
			weights[name], values[name] = weight, value
		}
	}
	if len(weights) < len(cvssWeights) {
		return gate.Unrated
	}
	changed := weights["S"] == 1
	if changed {
		weights["PR"] = cvssChangedPrivileges[values["PR"]]
	}
	return severityOfScore(cvssBaseScore(weights, changed))
}

// cvss4Header begins the vectors of CVSS 4.
const cvss4Header = "CVSS:4.0"

// cvss4Base are the base metrics of CVSS 4.0 in the order its vectors have (first.org/cvss/v4-0/specification-document, section 7).
var cvss4Base = [...]string{"AV", "AC", "AT", "PR", "UI", "VC", "VI", "VA", "SC", "SI", "SA"}

// severityOfMetrics4 is severityOfVector of the metrics of a CVSS 4 vector. What they say of threats and environments does not count,
// as it does not in version 3: it only holds where and when it was written.
func severityOfMetrics4(metrics string) gate.Severity {
	values := map[string]string{}
	for metric := range strings.SplitSeq(metrics, "/") {
		name, value, _ := strings.Cut(metric, ":")
		values[name] = value
	}
	base := cvss4Header
	for _, name := range cvss4Base {
		base += "/" + name + ":" + values[name]
	}
	vector, err := gocvss40.ParseVector(base)
	if err != nil {
		return gate.Unrated
	}
	return severityOfScore(vector.Score())
}

// cvssBaseScore is the base score of section 7.1.
func cvssBaseScore(w map[string]float64, changed bool) float64 {
	iss := 1 - (1-w["C"])*(1-w["I"])*(1-w["A"])
	impact := 6.42 * iss
	if changed {
		impact = 7.52*(iss-0.029) - 3.25*math.Pow(iss-0.02, 15)
	}
	if impact <= 0 {
		return 0
	}
	score := impact + 8.22*w["AV"]*w["AC"]*w["PR"]*w["UI"]
	if changed {
		score *= 1.08
	}
	return cvssRoundUp(min(score, 10))
}

// cvssRoundUp rounds up to one decimal, steady against how machines hold fractions (appendix A).
func cvssRoundUp(score float64) float64 {
	n := int(math.Round(score * 100_000))
	if n%10_000 == 0 {
		return float64(n) / 100_000
	}
	return float64(n/10_000+1) / 10
}

// severityOfScore is the qualitative scale of section 5, and of section 6 of version 4.
func severityOfScore(score float64) gate.Severity {
	switch {
	case score >= 9:
		return gate.Critical
	case score >= 7:
		return gate.High
	case score >= 4:
		return gate.Medium
	case score > 0:
		return gate.Low
	default:
		return gate.Unrated
	}
}
