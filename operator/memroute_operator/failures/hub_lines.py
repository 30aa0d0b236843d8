"""What engines write when they do not get their model: huggingface_hub 2.4, transformers 5.24."""

from typing import Final

from memroute_operator.failures.signature import Signature, Where, pattern

HUB_LINES: Final = (
    Signature(
        name="HubTokenInvalid", where=Where.LOG,
        pattern=pattern(r"Invalid credentials in Authorization header|Invalid user token|"
                    r"Token is required.*but no token found"),
        seen_as="`Invalid credentials in Authorization header`",
        sentence="the hub does not know the token that the replica was given",
        next_step="put a token that is valid into the Secret that HF_TOKEN comes from; the replica "
                  "starts by itself then",
    ),
    Signature(
        name="ModelAccessDenied", where=Where.LOG,
        pattern=pattern(r"\A(?=.*(?:gated repo|GatedRepoError))(?=.*\b403\b)"),
        seen_as="`You are trying to access a gated repo.` and `403`",
        sentence="the model is gated, and the token's account has not been let in",
        next_step="ask for access on the model's page, with the account of the token; then delete "
                  "the pod, or wait until it starts again",
    ),
    Signature(
        name="ModelGated", where=Where.LOG,
        pattern=pattern(r"gated repo|GatedRepoError"),
        seen_as="`You are trying to access a gated repo.` and `401`",
        sentence="the model is gated, and no token that is let in reached the replica",
        next_step="put a token of an account that has been let in into a Secret, and HF_TOKEN from "
                  "it into spec.engine.env",
    ),
    Signature(
        name="RevisionNotFound", where=Where.LOG,
        pattern=pattern(r"is not a valid git identifier|RevisionNotFoundError|Revision Not Found"),
        seen_as="`is not a valid git identifier`, `RevisionNotFoundError`",
        sentence="the model's repository has no such revision",
        next_step="correct the revision that the spec names: a branch, a tag or a commit that it "
                  "has",
    ),
    Signature(
        name="ModelNotFound", where=Where.LOG,
        pattern=pattern(r"is not a valid model identifier listed on|RepositoryNotFoundError|"
                    r"Repository Not Found"),
        seen_as="`is not a valid model identifier listed on …`, `RepositoryNotFoundError`",
        sentence="the hub has no model of that name, or does not show it to the replica",
        next_step="model.name is immutable: delete the ModelDeployment and create it with the "
                  "right "
                  "name; if the model is private, put HF_TOKEN from a Secret into spec.engine.env",
    ),
    Signature(
        name="HubRateLimited", where=Where.LOG,
        pattern=pattern(r"429 Too Many Requests|429 Client Error|you have reached your '?[^']*'? "
                        r"rate"),
        seen_as="`429 Too Many Requests: you have reached your '…' rate limit`",
        sentence="the hub lets the replica fetch no more for now",
        next_step="put HF_TOKEN from a Secret into spec.engine.env (accounts may fetch more), or "
                  "serve the weights from a volume; it tries again meanwhile",
    ),
    Signature(
        name="HubUnreachable", where=Where.LOG,
        pattern=pattern(r"We couldn't connect to '|LocalEntryNotFoundError|OfflineModeIsEnabled|"
                    r"(?:Connect(?:ion)?(?:Error|Timeout)|Name or service not known|"
                    r"Temporary failure in name resolution).*(?:hugging|hub|HF_ENDPOINT|resolve)"),
        seen_as="`We couldn't connect to '…'`, `LocalEntryNotFoundError`, `OfflineModeIsEnabled`",
        sentence="the replica cannot reach the hub, and has no copy of the weights",
        next_step="let the namespace's egress reach the hub (NetworkPolicy, proxy: HTTPS_PROXY in "
                  "spec.engine.env), or name a mirror with HF_ENDPOINT, or serve from a volume",
    ),
    Signature(
        name="RemoteCodeRefused", where=Where.LOG,
        pattern=pattern(r"requires you to execute the configuration file|"
                    r"contains custom code which must be executed|trust[_-]remote[_-]code"),
        seen_as="`requires you to execute the configuration file`, `--trust-remote-code`",
        sentence="the model brings code of its own, which the engine does not run unasked",
        next_step="if you trust its authors, add --trust-remote-code to spec.engine.args",
    ),
    Signature(
        name="ArchitectureUnsupported", where=Where.LOG,
        pattern=pattern(r"Model architectures? \[?'?(?P<name>[^\]'\n]+)'?\]? (?:is|are) not "
                        r"supported|"
                    r"does not recognize this architecture|was supported in vLLM until|"
                    r"unknown model architecture: '(?P<gguf>[^']+)'"),
        seen_as="`Model architectures […] are not supported for now`, `does not recognize this "
                "architecture`, `unknown model architecture: 'x'`",
        sentence="this version of the engine does not know the model's architecture",
        next_step="name a newer image in spec.engine.image (an older one where it says that "
                  "support "
                  "was dropped), or another spec.engine.type",
    ),
    Signature(
        name="WeightsDamaged", where=Where.LOG,
        pattern=pattern(r"Error while deserializing header|incomplete metadata|"
                    r"MetadataIncompleteBuffer|InvalidHeader|Consistency check failed|"
                    r"data is not within the file bounds|file is corrupted or incomplete"),
        seen_as="`Error while deserializing header`, `Consistency check failed`, `tensor 'x' "
                "data is "
                "not within the file bounds, model is corrupted or incomplete`",
        sentence="a file of the weights is cut or damaged",
        next_step="delete it from the cache and let it be fetched anew (hf cache verify names it)",
    ),
    Signature(
        name="WeightsMissing", where=Where.LOG,
        pattern=pattern(r"Cannot find any model weights with|no \.?safetensors.* found|"
                    r"does not appear to have (?:a )?files? named "
                    r"(?P<file>\S*\.(?:bin|safetensors))"),
        seen_as="`Cannot find any model weights with …`",
        sentence="the model's folder or repository has no weights that the engine can read",
        next_step="check what it holds: the engine reads *.safetensors (llama.cpp: *.gguf); where "
                  "it is a copy, fetch it again",
    ),
    Signature(
        name="ModelFileMissing", where=Where.LOG,
        pattern=pattern(r"does not appear to have (?:a )?files? named (?P<file>[^\s.]\S*?)[.\s]|"
                    r"Can't load (?:the )?(?P<part>tokenizer|configuration|feature "
                    r"extractor)[^'\n]*"
                    r"'(?P<where>[^']*)'|EntryNotFoundError"),
        seen_as="`does not appear to have a file named x`, `Can't load tokenizer for 'x'`",
        sentence="the model's repository or folder lacks a file that the engine needs",
        next_step="where it is a copy, fetch it again; where the tokenizer is missing, add "
                  "--tokenizer (SGLang: --tokenizer-path) with another repository to "
                  "spec.engine.args",
    ),
)  # fmt: skip
