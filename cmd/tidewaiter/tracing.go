package main

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"os"

	"github.com/tidewaiter/tidewaiter/gate"
	"github.com/tidewaiter/tidewaiter/oci"
	"github.com/tidewaiter/tidewaiter/proxy"
	"github.com/tidewaiter/tidewaiter/tracing"
	"github.com/tidewaiter/tidewaiter/upstream"
)

type tracingConfig struct {
	Endpoint      string
	SampleRatio   float64 `mapstructure:"sample_ratio"`
	FollowClients bool    `mapstructure:"follow_clients"`
}

// tracing returns where traces go.
func (c *config) tracing() tracing.Options {
	return tracing.Options{Endpoint: c.Tracing.Endpoint, SampleRatio: c.Tracing.SampleRatio, FollowClients: c.Tracing.FollowClients, Version: version}
}

// openTracer opens the way to a collector, if there is one.
func (in *instance) openTracer(ctx context.Context) (err error) {
	o := in.config.tracing()
	o.Endpoint = cmp.Or(o.Endpoint, environment("OTEL_EXPORTER_OTLP_ENDPOINT"))
	o.Log = in.log
	o.Instance, _ = os.Hostname() // without a name it is one of several that cannot be told apart
	if in.tracer, err = tracing.Open(ctx, o); err != nil {
		return usageError(err)
	}
	in.closers = append(in.closers, func() error {
		if err := in.tracer.Close(); err != nil { // nothing that was promised to anybody
			in.log.Warn("traces are lost", "err", err)
		}
		return nil
	})
	return nil
}

// judgingTracer implements gate.Tracer.
type judgingTracer struct{ *tracing.Tracer }

// Start implements gate.Tracer.
func (t judgingTracer) Start(ctx context.Context, name string, c gate.Candidate) (context.Context, func(error)) {
	if !t.On() {
		return ctx, func(error) {}
	}
	return t.Tracer.Start(ctx, name, about(c.Repository, "", c.Digest)...)
}

// traceExchange begins the span of an exchange with an upstream.
func (in *instance) traceExchange(ctx context.Context, kind upstream.Kind, host string) (context.Context, func(upstream.Outcome)) {
	ctx, end := in.tracer.Start(ctx, "upstream "+string(kind), tracing.Attr{Key: "tidewaiter.upstream", Value: host})
	return ctx, func(o upstream.Outcome) {
		if o == upstream.OutcomeOK {
			end(nil)
			return
		}
		end(errors.New(string(o)))
	}
}

// about are the attributes that name what is pulled.
func about(repo oci.Repository, tag string, d oci.Digest) []tracing.Attr {
	return []tracing.Attr{
		{Key: "tidewaiter.repository", Value: repo.String()}, {Key: "tidewaiter.tag", Value: tag}, {Key: "tidewaiter.digest", Value: d.String()},
	}
}

// traced returns registry with a span around each request.
func (in *instance) traced(registry http.Handler) http.Handler {
	return in.tracer.Handler(registry, func(r *http.Request) (string, []tracing.Attr) {
		q, err := oci.ParseRequest(r.Method, r.URL)
		if err != nil {
			return "request", nil
		}
		name := "request " + q.Kind.String()
		repo, err := q.Repository(in.config.DefaultUpstream, in.hosted.Hosts)
		if err != nil { // it is about none
			return name, nil
		}
		return name, about(repo, q.Tag, q.Digest)
	})
}

// tracedResolver returns the upstreams as the proxy asks them, with a span around each tag that is resolved.
func (in *instance) tracedResolver() proxy.Resolver {
	if !in.tracer.On() {
		return resolver{in.upstreams}
	}
	return tracedResolver{resolver{in.upstreams}, in.tracer}
}

type tracedResolver struct {
	resolver
	tracer *tracing.Tracer
}

// Resolve implements proxy.Resolver.
func (t tracedResolver) Resolve(ctx context.Context, repo oci.Repository, reference string) (oci.Descriptor, bool, error) {
	ctx, end := t.tracer.Start(ctx, "resolving", tracing.Attr{Key: "tidewaiter.repository", Value: repo.String()}, tracing.Attr{Key: "tidewaiter.reference", Value: reference})
	desc, stale, err := t.resolver.Resolve(ctx, repo, reference)
	end(err)
	return desc, stale, err
}
