package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/tidewaiter/tidewaiter/gate"
)

// Predicates that policies have words for (SLSA provenance 0.2 and 1, SLSA verification summary 1).
const (
	provenance02 = "https://slsa.dev/provenance/v0.2"
	provenance1  = "https://slsa.dev/provenance/v1"
	summary1     = "https://slsa.dev/verification_summary/v1"
)

// wording is a text, or an expression the whole of a text fits, and how it was written. The zero value fits everything.
type wording struct {
	gate.Wording
	whole *regexp.Regexp
}

func (w wording) given() bool { return w.Text != "" }

func (w wording) fits(s string) bool {
	switch {
	case !w.given():
		return true
	case w.whole != nil:
		return w.whole.MatchString(s)
	}
	return s == w.Text
}

// String tells an expression from a text.
func (w wording) String() string {
	if w.Regexp {
		return "/" + w.Text + "/"
	}
	return fmt.Sprintf("%q", w.Text)
}

// slsa demands things of a provenance. It implements [gate.Condition].
type slsa struct {
	builder, source, buildType wording
}

// String implements [gate.Condition].
func (s slsa) String() string {
	return fmt.Sprintf("slsa: builder %s, source %s, build type %s", s.builder, s.source, s.buildType)
}

// provenance is what is looked at of a provenance, of either version.
type provenance struct {
	// Version 0.2.
	Builder struct {
		ID string `json:"id"`
	} `json:"builder"`
	BuildType  string `json:"buildType"`
	Invocation struct {
		ConfigSource struct {
			URI string `json:"uri"`
		} `json:"configSource"`
	} `json:"invocation"`
	// Version 1.
	RunDetails struct {
		Builder struct {
			ID string `json:"id"`
		} `json:"builder"`
	} `json:"runDetails"`
	BuildDefinition struct {
		BuildType          string `json:"buildType"`
		ExternalParameters struct {
			Workflow struct {
				Repository string `json:"repository"`
			} `json:"workflow"`
			Source json.RawMessage `json:"source"`
		} `json:"externalParameters"`
		ResolvedDependencies []struct {
			URI string `json:"uri"`
		} `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
}

// Check implements [gate.Condition].
func (s slsa) Check(_ context.Context, a gate.Attestation) error {
	var p provenance
	if err := json.Unmarshal(a.Predicate, &p); err != nil {
		return errors.New("is no provenance that can be read")
	}
	builder, buildType, source := p.RunDetails.Builder.ID, p.BuildDefinition.BuildType, p.source()
	if a.PredicateType == provenance02 {
		builder, buildType, source = p.Builder.ID, p.BuildType, repositoryOf(p.Invocation.ConfigSource.URI)
	}
	for _, member := range []struct {
		name, has string
		want      wording
	}{{"builder", builder, s.builder}, {"source", source, s.source}, {"build type", buildType, s.buildType}} {
		if member.want.given() && (member.has == "" || !member.want.fits(member.has)) {
			return fmt.Errorf("names the %s %.100q, not %s", member.name, member.has, member.want)
		}
	}
	return nil
}

// source returns the repository that was built, as version 1 has it: what the build was told from outside; where it was told nothing
// of the kind, the first thing it fetched. What else it fetched are dependencies, which anybody's build can have in common with ours.
func (p provenance) source() string {
	parameters := p.BuildDefinition.ExternalParameters
	if parameters.Workflow.Repository != "" {
		return repositoryOf(parameters.Workflow.Repository)
	}
	if parameters.Source != nil {
		var uri string
		if json.Unmarshal(parameters.Source, &uri) == nil {
			return repositoryOf(uri)
		}
		var at struct {
			URI string `json:"uri"`
		}
		_ = json.Unmarshal(parameters.Source, &at) // of another form it names none, which fits nothing
		return repositoryOf(at.URI)
	}
	if fetched := p.BuildDefinition.ResolvedDependencies; len(fetched) > 0 {
		return repositoryOf(fetched[0].URI)
	}
	return ""
}

// repositoryOf takes from the URI of a source what says how it is fetched and at which revision: "git+https://host/path@refs/tags/v1".
func repositoryOf(uri string) string {
	scheme, rest, ok := strings.Cut(strings.TrimPrefix(uri, "git+"), "://")
	if !ok {
		return uri
	}
	if at := strings.LastIndexByte(rest, '@'); at > strings.IndexByte(rest, '/') {
		rest = rest[:at]
	}
	return scheme + "://" + strings.TrimSuffix(rest, ".git")
}

// vsa demands things of a verification summary. It implements [gate.Condition].
type vsa struct {
	verifier wording
	levels   []string
}

// String implements [gate.Condition].
func (v vsa) String() string {
	return fmt.Sprintf("vsa: passed, verifier %s, levels %q", v.verifier, unordered(v.levels, itself))
}

// Check implements [gate.Condition]. That the summary says PASSED is always demanded: one that says FAILED attests the contrary.
func (v vsa) Check(_ context.Context, a gate.Attestation) error {
	if a.PredicateType != summary1 {
		return fmt.Errorf("is of type %.100q and no verification summary", a.PredicateType)
	}
	var summary struct {
		Verifier struct {
			ID string `json:"id"`
		} `json:"verifier"`
		Result string   `json:"verificationResult"`
		Levels []string `json:"verifiedLevels"`
	}
	if err := json.Unmarshal(a.Predicate, &summary); err != nil {
		return errors.New("is no verification summary that can be read")
	}
	if summary.Result != "PASSED" {
		return fmt.Errorf("says %.40q, not PASSED", summary.Result)
	}
	if v.verifier.given() && !v.verifier.fits(summary.Verifier.ID) {
		return fmt.Errorf("names the verifier %.100q, not %s", summary.Verifier.ID, v.verifier)
	}
	for _, level := range v.levels {
		if !slices.Contains(summary.Levels, level) {
			return fmt.Errorf("does not say %s", level)
		}
	}
	return nil
}
