/** Refusals as OpenAI's clients read them. */

/** The body of a refusal. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: string;
    readonly code: string;
    /** The field of the request that is at fault. */
    readonly param: string | null;
  };
}

/** Kinds of errors by status; every other status is a request that is at fault itself. */
const TYPES: { readonly [status: number]: string } = {
  401: "authentication_error",
  429: "rate_limit_error",
  500: "server_error",
  503: "server_error",
};

/** Details of an {@linkcode ApiError}. */
export interface ApiErrorOptions extends ErrorOptions {
  readonly param?: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** A request that is not answered, and with which status. */
export class ApiError extends Error {
  /** Always `"ApiError"`. */
  override readonly name = "ApiError";
  readonly status: number;
  /** Why, for programs; stable across releases. */
  readonly code: string;
  readonly param: string | null;
  readonly headers: Readonly<Record<string, string>>;

  /** `message` says what was found and wanted, and what to do. */
  constructor(status: number, code: string, message: string, options: ApiErrorOptions = {}) {
    super(message, options);
    this.status = status;
    this.code = code;
    this.param = options.param ?? null;
    this.headers = options.headers ?? {};
  }

  /** What is sent. */
  get body(): ErrorBody {
    const { message, code, param } = this;
    return { error: { message, type: TYPES[this.status] ?? "invalid_request_error", code, param } };
  }

  /** The answer. */
  get response(): Response {
    return Response.json(this.body, { status: this.status, headers: this.headers });
  }
}

/** A field of a request that can't be used. */
export function invalidField(param: string, detail: string, code = "invalid_value"): ApiError {
  return new ApiError(400, code, `${param}: ${detail}`, { param });
}
